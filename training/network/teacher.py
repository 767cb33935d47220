"""What a student learns from its teacher: how the teacher orders the items that both are asked about.

    loss = (1 − w) · loss of the labels + w · T² · KL(softmax(teacher / T) ‖ softmax(student / T))

After Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. 2015. A label says one item of a list; the
teacher says of every other one how near it came. T² keeps the pull of the second term as T grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras import ops

if TYPE_CHECKING:
    from training.model import Recommender


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A trained recommender whose rows stand for the same users, items and types as the student's."""

    recommender: Recommender  # not part of the student: it is neither trained nor saved with it
    temperature: float  # T
    weight: float  # w

    def logits(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What it makes of a batch of the student's, with nothing dropped."""
        return {name: ops.stop_gradient(values) for name, values in self.recommender(inputs, training=False).items()}

    def divergence(self, student: Any, teacher: Any, shift: Any) -> Any:
        """T² · KL of each list: [lists].

        student, teacher: logits [lists, items]. shift, likewise: what corrects for how an item was sampled,
        blocks.FAR_BELOW where there is none; it is no part of what is softened.
        """
        aim, is_at = (
            ops.log_softmax(ops.cast(logits, "float32") / self.temperature + shift, axis=-1)
            for logits in (teacher, student)
        )
        return self.temperature**2 * ops.sum(ops.exp(aim) * (aim - is_at), axis=-1)

    def sequence_divergence(
        self, student: tuple[Any, Any], inputs: Mapping[str, Any], told: Mapping[str, Any], shift: Any
    ) -> Any:
        """The same at every token of packed rows, over what came next and the items that the batch shares: [tokens].

        student: as `Recommender.sequence_logits` gives; told: as the teacher's `logits`; shift [tokens, negatives].
        """
        teacher = self.recommender.sequence_logits(inputs, told)
        mine, its = (ops.concatenate([positive[:, None], shared], axis=1) for positive, shared in (student, teacher))
        return self.divergence(mine, ops.stop_gradient(its), ops.pad(shift, ((0, 0), (1, 0))))

    def beside(self, of_labels: Any, of_teacher: Any) -> Any:
        """Both losses in one."""
        return (1.0 - self.weight) * of_labels + self.weight * of_teacher
