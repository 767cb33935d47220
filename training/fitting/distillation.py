"""A small student of the kept model: who teaches it, and that no phase of it hears of what it is asked.

A training leaves the best weights of both its phases among the checkpoints: of the search, which stops before
validation, and of the refit on everything before the test. The student's search learns from the teacher's search and
its refit from the teacher's refit, of the same log, cuts and settings; a teacher of others is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from feature_repo.errors import LongtailError
from training.examples.lessons import AnyExamples
from training.examples.preparation import Preparation
from training.fitting.checkpoint import Checkpoints, kept_state
from training.fitting.untrained import new_recommender
from training.model import Recommender
from training.network.teacher import Teacher
from training.settings import TrainingSettings

Phase = Literal["search", "refit", "whole"]
Fingerprint = Callable[[TrainingSettings, str], str]
"""(settings, phase) → that of a training on the log of now."""
CHECKPOINTS: Final = "student"  # the student's own, beside the teacher's


def student_settings(settings: TrainingSettings) -> TrainingSettings:
    """The same training of a smaller model."""
    smaller = {
        "embedding_size": settings.student_embedding_size,
        "num_heads": settings.student_num_heads,
        "neighbours": settings.student_neighbours,
    }
    return settings.model_copy(update=smaller)


@dataclass(frozen=True, kw_only=True)
class Teachers:
    """The kept model's network as it was at the end of each phase."""

    checkpoints: Path
    version: int
    settings: TrainingSettings  # the teacher's

    def teach(self, phase: Phase, student: Recommender, prepared: Preparation, examples: AnyExamples) -> None:
        """Lets the student learn from the teacher of this phase, whose rows are the same."""
        teacher = new_recommender(prepared, examples, self.settings, self.settings.max_epochs)
        Checkpoints(directory=self.checkpoints / phase, fingerprint="").restore_best(teacher)
        student.objective = replace(
            student.objective,
            teacher=Teacher(
                recommender=teacher,
                temperature=self.settings.distil_temperature,
                weight=self.settings.distil_weight,
            ),
        )

    def as_json(self) -> dict[str, Any]:
        """For the model's papers."""
        return {
            "version": self.version,
            "embedding_size": self.settings.embedding_size,
            "num_heads": self.settings.num_heads,
            "neighbours": self.settings.neighbours,
            "temperature": self.settings.distil_temperature,
            "weight": self.settings.distil_weight,
        }


def find_teachers(checkpoints: Path, version: int, settings: TrainingSettings, fingerprint: Fingerprint) -> Teachers:
    """Those that a finished training with these settings left, warm or not.

    Raises LongtailError where there is none, or it learnt from another log or with other settings.
    """
    searched, refitted = (kept_state(checkpoints / phase) for phase in ("search", "refit"))
    if searched is None or refitted is None or refitted.done_epochs < searched.best_epoch:
        raise LongtailError(
            f"there is no finished training in {checkpoints} to learn from; run `longtail train` (with --resume it "
            "goes on where it was interrupted), then `longtail train --distil`"
        )
    for tried in (settings, settings.model_copy(update={"max_epochs": settings.warm_epochs})):
        phases = fingerprint(tried, "search"), fingerprint(tried, f"refit-{searched.best_epoch}")
        if phases == (searched.fingerprint, refitted.fingerprint):
            return Teachers(checkpoints=checkpoints, version=version, settings=tried)
    raise LongtailError(
        f"the training in {checkpoints} is of other settings, or of another event log or catalogue: a student learns "
        "from the same ones; run `longtail train` with the settings of now, then `longtail train --distil`"
    )
