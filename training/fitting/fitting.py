"""Fits a recommender to examples: epochs, early stopping, checkpoints, resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from feature_repo.errors import LongtailError
from training.examples.lessons import AnyExamples
from training.fitting.batches import make_batches
from training.fitting.checkpoint import Checkpoint, Checkpoints
from training.fitting.progress import Epoch, OnEpoch, OnStep
from training.model import Recommender
from training.settings import TrainingSettings


class DivergedError(LongtailError):
    """The loss or the weights are no numbers any more: these settings cannot be trained with."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted recommender and how it got there. The weights are those of the best epoch."""

    recommender: Recommender
    epochs: list[Epoch]
    best_epoch: int


def fit(
    recommender: Recommender,
    examples: AnyExamples,
    settings: TrainingSettings,
    *,
    epochs: int,
    checkpoints: Checkpoints,
    resume: bool,
    validate: Callable[[], float] | None = None,
    on_epoch: OnEpoch = lambda epoch: None,
    on_step: OnStep = lambda done, total: None,
) -> Fit:
    """Trains for so many epochs, or until validation NDCG has not risen for `patience`; then restores the best epoch.

    A checkpoint is kept after each epoch; with `resume` the run goes on from the last one as if never interrupted.
    """
    state = checkpoints.restore(recommender) if resume else checkpoints.start()
    watch = _Watch(
        state=state,
        validate=validate,
        settings=settings,
        checkpoints=checkpoints,
        on_epoch=on_epoch,
        on_step=on_step,
        epochs=epochs,
    )
    if not state.stopped and state.done_epochs < epochs:
        batches = make_batches(examples, settings, first_epoch=state.done_epochs)
        recommender.fit(
            batches, initial_epoch=state.done_epochs, epochs=epochs, verbose=0, shuffle=False, callbacks=[watch]
        )
    checkpoints.restore_best(recommender)
    return Fit(
        recommender=recommender, epochs=[Epoch(**row) for row in watch.state.epochs], best_epoch=watch.state.best_epoch
    )


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]  # the library ships no types
    """Validates, keeps checkpoints, and stops on a stall or on a loss that is no number."""

    def __init__(
        self,
        *,
        state: Checkpoint,
        validate: Callable[[], float] | None,
        settings: TrainingSettings,
        checkpoints: Checkpoints,
        on_epoch: OnEpoch,
        on_step: OnStep,
        epochs: int,
    ) -> None:
        super().__init__()
        self.state, self._validate, self._settings, self._checkpoints = state, validate, settings, checkpoints
        self._on_epoch, self._on_step, self._epochs = on_epoch, on_step, epochs
        self._done_steps = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise self._diverged(
                "the loss is no longer a finite number", f"in epoch {self.state.done_epochs + 1}, step {batch + 1}"
            )
        self._done_steps += 1
        self._on_step(self._done_steps, self._epochs * self.params["steps"])

    def _diverged(self, what: str, where: str) -> DivergedError:
        kept = self.state.done_epochs
        return DivergedError(
            f"{what} {where}; {f'the checkpoint after epoch {kept} is kept' if kept else 'no epoch was finished'}; "
            f"lower training.learning_rate (now {self._settings.learning_rate:g}) and train again"
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not all(np.isfinite(variable).all() for variable in self.model.trainable_variables):
            raise self._diverged("the weights are no longer finite numbers", f"at the end of epoch {epoch + 1}")
        score = self._validate() if self._validate else None
        line = Epoch(epoch=epoch + 1, loss=float((logs or {})["loss"]), validation_ndcg=score)
        self.state = self.state.after(line.epoch, line.as_json(), score, self._settings.patience)
        self._checkpoints.save(self.model, self.state)
        self._on_epoch(line)
        if self.state.stopped:
            self.model.stop_training = True
