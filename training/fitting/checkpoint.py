"""Checkpoints: after each epoch everything a run needs to go on as if it had not been interrupted."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np

from feature_repo.errors import LongtailError

LAST: Final = "last.npz"
BEST: Final = "best.npz"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a run stands."""

    fingerprint: str  # of the settings and the log; another one cannot be resumed
    done_epochs: int = 0
    best_epoch: int = 0
    best_score: float = float("-inf")
    stopped: bool = False
    epochs: list[dict[str, Any]] = field(default_factory=list)

    def after(self, epoch: int, line: dict[str, Any], score: float | None, patience: int) -> Checkpoint:
        """After one more epoch; without a score the latest epoch is the best."""
        is_best = score is None or score > self.best_score
        best_epoch = epoch if is_best else self.best_epoch
        return replace(
            self,
            done_epochs=epoch,
            best_epoch=best_epoch,
            best_score=self.best_score if score is None else max(self.best_score, score),
            stopped=score is not None and epoch - best_epoch >= patience,
            epochs=[*self.epochs, line],
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one run in one folder: the last epoch and the best one."""

    directory: Path
    fingerprint: str

    def start(self) -> Checkpoint:
        """Forgets what an earlier run left."""
        forget(self.directory)
        return Checkpoint(fingerprint=self.fingerprint)

    def save(self, model: keras.Model, state: Checkpoint) -> None:
        """Keeps the last epoch, and a copy of it when it is the best; a crash leaves the one before."""
        self.directory.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {f"model_{index}": np.asarray(value) for index, value in enumerate(model.variables)}
        arrays |= {f"optimizer_{index}": np.asarray(value) for index, value in enumerate(model.optimizer.variables)}
        draft = self.directory / ".draft.npz"
        np.savez(draft, state=json.dumps(asdict(state)), **arrays)
        if state.best_epoch == state.done_epochs:
            best = self.directory / ".best.npz"
            shutil.copyfile(draft, best)
            best.replace(self.directory / BEST)
        draft.replace(self.directory / LAST)

    def restore(self, model: keras.Model) -> Checkpoint:
        """Puts the model and its optimizer where the last epoch left them; a fresh start where there is none."""
        path = self.directory / LAST
        if not path.exists():
            return self.start()
        with _opened(path) as arrays:
            state = _state(path, arrays)
            if state.fingerprint != self.fingerprint:
                raise LongtailError(
                    f"{path} belongs to other settings, another event log or catalogue, or another version of "
                    "longtail; train without --resume to start anew"
                )
            model.optimizer.build(model.trainable_variables)
            _assign(model.variables, arrays, "model")
            _assign(model.optimizer.variables, arrays, "optimizer")
        return state

    def restore_best(self, model: keras.Model) -> None:
        """Gives the model the weights of the best epoch."""
        with _opened(self.directory / BEST) as arrays:
            _assign(model.variables, arrays, "model")


def forget(directory: Path) -> None:
    """Of the run in a folder; what a warm start begins from stays there until it is replaced."""
    for name in (LAST, BEST):
        (directory / name).unlink(missing_ok=True)


def kept_state(directory: Path) -> Checkpoint | None:
    """Where the run in a folder stands, whosever it is; None where none has finished an epoch."""
    path = directory / LAST
    if not path.exists():
        return None
    with _opened(path) as arrays:
        return _state(path, arrays)


def _opened(path: Path) -> Any:
    try:
        return np.load(path)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise LongtailError(
            f"{path} is no checkpoint that can be read: {error}; train without --resume to start anew"
        ) from error


def _state(path: Path, arrays: Any) -> Checkpoint:
    try:
        return Checkpoint(**json.loads(str(arrays["state"])))
    except (KeyError, TypeError, ValueError) as error:
        raise LongtailError(
            f"{path} was written by another version of longtail; train without --resume to start anew"
        ) from error


def _assign(variables: list[Any], arrays: Any, prefix: str) -> None:
    for index, variable in enumerate(variables):
        variable.assign(arrays[f"{prefix}_{index}"])
