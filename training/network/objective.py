"""What is minimised: the head's losses with the prior of δ_u, what came next in packed rows, what a teacher says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras import ops

from training.network.blocks import FAR_BELOW
from training.network.losses import candidate_losses, gbce, softmax_against, weighted_mean, without_own
from training.network.teacher import Teacher

if TYPE_CHECKING:
    from training.model import Recommender

Tensors = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Of a sequence model besides the head's losses, and of a student besides the labels'."""

    loss: str = "softmax"  # or "gbce"
    gbce_calibration: float = 0.75
    head_weight: float = 1.0
    teacher: Teacher | None = None

    def value(self, recommender: Recommender, x: Any, y: Any, y_pred: Any, *, training: bool) -> Any:
        """Binary cross-entropy of `rank`, softmax of `retrieve`, and the Gaussian prior of δ_u.

        y [batch, candidates] is 1 for an item the user went on to engage with, 0 for a sampled one, −1 for padding.
        x["candidate_log_odds"] is log(draws × probability) of the item as a negative, so that what is learnt is the
        odds of engagement and not the odds against this way of sampling. x["candidate_weight"], where it is given, is
        how much each candidate counts; see training.examples.shown.

        Of packed rows also what came next at every token, against negatives that the batch shares.
        """
        is_packed = "segment" in x
        flat = {
            name: ops.reshape(x[name], (-1, *ops.shape(x[name])[2:])) if is_packed else x[name]
            for name in ("candidate_log_odds", "example_weight", "prior_share", "user")
        }
        label = ops.reshape(y, (-1, ops.shape(y)[-1]))
        weight = ops.reshape(x["candidate_weight"], ops.shape(label)) if "candidate_weight" in x else None
        per_user = ops.sum(ops.maximum(label, 0.0), axis=1)
        loss = self._of_labels(y_pred, label, weight, flat["candidate_log_odds"], is_packed=is_packed)
        told = {} if self.teacher is None else self.teacher.logits(x)
        if self.teacher is not None:
            apart = self._from_teacher(y_pred, told, label, weight, flat["candidate_log_odds"], is_packed=is_packed)
            loss = self.teacher.beside(loss, per_user * apart)
        delta = ops.cast(recommender.user_weights(flat["user"]), "float32")
        prior = 0.5 * recommender.model_shape.user_prior * ops.sum(ops.square(delta), axis=1) * flat["prior_share"]
        total = ops.sum(flat["example_weight"] * loss + prior)
        total = total / ops.maximum(ops.sum(flat["example_weight"] * per_user), 1.0)
        if not is_packed:
            return total
        return self.head_weight * total + self._of_sequences(recommender, x, y_pred, told, training)

    def _of_labels(self, y_pred: Tensors, label: Any, weight: Any, log_odds: Any, *, is_packed: bool) -> Any:
        """[batch]; in packed rows `retrieve` learns from the sequences instead."""
        binary, listwise = candidate_losses(ops.cast(y_pred["rank"], "float32") - log_odds, label, weight)
        if is_packed:
            return binary + listwise
        return binary + candidate_losses(ops.cast(y_pred["retrieve"], "float32") - log_odds, label, weight)[1]

    def _from_teacher(
        self, y_pred: Tensors, told: Tensors, label: Any, weight: Any, log_odds: Any, *, is_packed: bool
    ) -> Any:
        """How far the orders of the candidates are apart: [batch]."""
        assert self.teacher is not None
        shift = ops.where(label >= 0, -log_odds, FAR_BELOW)
        shift = shift if weight is None else shift + ops.log(ops.maximum(weight, 1e-9))
        heads = ("rank",) if is_packed else ("rank", "retrieve")
        return sum(self.teacher.divergence(y_pred[head], told[head], shift) for head in heads)

    def _of_sequences(
        self, recommender: Recommender, x: Tensors, y_pred: Tensors, told: Tensors, training: bool
    ) -> Any:
        """What came next at every token of the rows that has an answer; `told` are the teacher's answers, if any."""
        positive, shared = recommender.sequence_logits(x, y_pred, training)
        targets, negatives = ops.reshape(x["targets"], (-1,)), ops.reshape(x["negatives"], (-1,))
        log_odds = ops.reshape(x["negative_log_odds"], (-1,))
        negative = without_own(shared - log_odds, negatives, targets)
        if self.loss == "gbce":
            num_items = recommender.model_shape.num_items
            values = gbce(positive, negative, num_items=num_items, calibration=self.gbce_calibration)
        else:
            values = softmax_against(positive, negative)
        if self.teacher is not None:
            shift = without_own(ops.zeros_like(shared) - log_odds, negatives, targets)
            apart = self.teacher.sequence_divergence((positive, shared), x, told, shift)
            values = self.teacher.beside(values, apart)
        return weighted_mean(values, ops.reshape(x["target_weight"], (-1,)))
