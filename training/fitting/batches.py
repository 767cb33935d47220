"""Batches of examples, streamed; epoch e draws from (seed, e), so a resumed run draws the same."""

from __future__ import annotations

import math

import keras
import numpy as np

from training.examples.lessons import AnyExamples
from training.examples.moments import Examples
from training.examples.sequences import PackedRows, SequenceExamples
from training.fitting import devices
from training.settings import TrainingSettings

LEAST_BATCH = 16
LEAST_STEPS = 100  # in an epoch, as long as batches are not smaller than LEAST_BATCH


def make_batches(examples: AnyExamples, settings: TrainingSettings, first_epoch: int = 0) -> keras.utils.PyDataset:
    """Streams batches of what the encoder learns from."""
    if isinstance(examples, Examples):
        return Batches(examples, settings, first_epoch)
    return PackedBatches(examples, settings, first_epoch)


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # the library ships no types
    """Streams batches; epoch e draws order, targets and negatives from (seed, e), so a resumed run draws the same."""

    def __init__(self, examples: Examples, settings: TrainingSettings, first_epoch: int = 0) -> None:
        super().__init__()
        self._examples, self._settings, self._epoch = examples, settings, first_epoch
        self._size = batch_size(len(examples.moments), settings)
        self._shuffle()

    def _shuffle(self) -> None:
        rng = np.random.default_rng([self._settings.seed, 1, self._epoch])
        self._order = rng.permutation(len(self._examples.moments))

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._size)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        rows = self._order[index * self._size : (index + 1) * self._size]
        rng = np.random.default_rng([self._settings.seed, 2, self._epoch, index])
        return devices.divisible(*self._examples.batch(rows, rng))

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._shuffle()


def batch_size(moments: int, settings: TrainingSettings) -> int:
    """As set, or smaller for a small log: it must give steps enough to learn from.

    >>> batch_size(100_000, TrainingSettings(batch_size=128)), batch_size(1_600, TrainingSettings(batch_size=128))
    (128, 16)
    """
    return min(settings.batch_size, max(LEAST_BATCH, moments // LEAST_STEPS))


class PackedBatches(keras.utils.PyDataset):  # type: ignore[misc]  # the library ships no types
    """The same of sequences: each epoch is packed anew, and all batches of a run have one shape."""

    def __init__(self, examples: SequenceExamples, settings: TrainingSettings, first_epoch: int = 0) -> None:
        super().__init__()
        self._examples, self._settings, self._epoch = examples, settings, first_epoch
        usual = len(self._packed(0))  # epochs differ by a few rows, but not in their batches
        self._size = batch_rows(usual, settings)
        self._batches = math.ceil(usual / self._size)
        self._rows = self._packed(first_epoch)

    def _packed(self, epoch: int) -> PackedRows:
        return self._examples.pack(np.random.default_rng([self._settings.seed, 1, epoch]))

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        order = np.random.default_rng([self._settings.seed, 3, self._epoch]).permutation(len(self._rows))
        place = np.arange(index * self._size, (index + 1) * self._size)
        rows = np.sort(np.take(order, place, mode="wrap"))  # the last batch is filled from the first
        rng = np.random.default_rng([self._settings.seed, 2, self._epoch, index])
        return devices.divisible(*self._rows.batch(rows, rng))

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._rows = self._packed(self._epoch)


def batch_rows(rows: int, settings: TrainingSettings) -> int:
    """As set, or fewer for a small log.

    >>> batch_rows(10_000, TrainingSettings(batch_rows=32)), batch_rows(90, TrainingSettings(batch_rows=32))
    (32, 2)
    """
    return min(settings.batch_rows, max(2, rows // LEAST_STEPS))
