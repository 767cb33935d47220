"""Runs of training are told, while they go on, to whoever keeps records of them: TensorBoard, MLflow.

A tracker that fails is reported once and left out from then on; it never stops a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from feature_repo.errors import LongtailError
from training.fitting.progress import Epoch, Progress
from training.settings import TrainingSettings, learning_settings


class TrackerError(LongtailError):
    """A tracker could not be told; why, and how to mend it."""


class RunTracker(Protocol):
    """Is told of one run. Every method raises TrackerError, and nothing else, when that fails."""

    def epoch(self, phase: str, epoch: Epoch) -> None:
        """One more epoch of a phase, such as `search` or `refit`."""

    def end(self, *, succeeded: bool) -> None:
        """The run is over; nothing is told after it."""


OpenTracker = Callable[[], RunTracker]  # raises TrackerError likewise


@contextmanager
def tracked(
    trackers: Mapping[str, OpenTracker], progress: Progress, *, on_trouble: Callable[[str], None]
) -> Iterator[Progress]:
    """A run's progress that these trackers (by their names) are told of too; a run without a phase is told to none."""
    told = [_Told(name=name, start=start, on_trouble=on_trouble) for name, start in trackers.items()]
    phase = ""

    def on_phase(name: str, epochs: int) -> None:
        nonlocal phase
        phase = name.partition(" ")[0]
        progress.on_phase(name, epochs)

    def on_epoch(epoch: Epoch) -> None:
        progress.on_epoch(epoch)
        for one in told:
            one.tell(lambda tracker: tracker.epoch(phase, epoch))

    succeeded = False
    try:
        yield replace(progress, on_phase=on_phase, on_epoch=on_epoch)
        succeeded = True
    finally:
        for one in told:
            one.end(succeeded=succeeded)


@dataclass(kw_only=True)
class _Told:
    """A tracker that is opened when there is something to tell, and given up when it fails."""

    name: str
    start: OpenTracker
    on_trouble: Callable[[str], None]
    _tracker: RunTracker | None = field(default=None, init=False)
    _given_up: bool = field(default=False, init=False)

    def tell(self, say: Callable[[RunTracker], None]) -> None:
        if self._given_up:
            return
        try:
            if self._tracker is None:
                self._tracker = self.start()
            say(self._tracker)
        except TrackerError as error:
            self._given_up = True
            self.on_trouble(f"{self.name} is not told of this run any more: {error}")

    def end(self, *, succeeded: bool) -> None:
        if self._tracker is not None:
            self.tell(lambda tracker: tracker.end(succeeded=succeeded))


def trackers_of(settings: TrainingSettings, run: str) -> dict[str, OpenTracker]:
    """The trackers that the settings name, by name, for a run so called; their libraries are imported on first use."""
    found: dict[str, OpenTracker] = {}
    if settings.tensorboard_dir is not None:
        found["TensorBoard"] = partial(_tensorboard, settings, run)
    if settings.mlflow_tracking_uri is not None:
        found["MLflow"] = partial(_mlflow, settings, run)
    return found


def _tensorboard(settings: TrainingSettings, run: str) -> RunTracker:
    from training.fitting.tensorboard_tracker import TensorBoardTracker

    assert settings.tensorboard_dir is not None
    return TensorBoardTracker(settings.tensorboard_dir / run, learning_settings(settings))


def _mlflow(settings: TrainingSettings, run: str) -> RunTracker:
    from training.fitting.mlflow_tracker import MlflowTracker

    assert settings.mlflow_tracking_uri is not None
    uri = settings.mlflow_tracking_uri.get_secret_value()
    return MlflowTracker(uri, settings.mlflow_experiment, run, learning_settings(settings))
