"""Data parallel training: each device has all weights and a part of every batch.

Keras on JAX compiles one program for all devices, and a batch means to it what it means on one: sums, shared negatives
and dropout are those of the whole batch. So the number of devices changes the time of a training and not its result.
TensorFlow's strategies would give each device a loss and negatives of its own.
"""

from __future__ import annotations

from typing import Literal

import keras
import numpy as np

from feature_repo.errors import LongtailError

Devices = Literal["auto"] | int


def use(devices: Devices) -> None:
    """Lets the models that are built from now on train on so many devices. Raises LongtailError where they are not."""
    if keras.backend.backend() != "jax":
        if devices not in ("auto", 1):
            raise LongtailError(
                f"training.devices = {devices} needs Keras on JAX: pip install 'longtail[jax]' (for CUDA "
                f"'jax[cuda12]') and set KERAS_BACKEND=jax, which is {keras.backend.backend()} now; "
                "the model is exported on TensorFlow as ever"
            )
        return
    found = keras.distribution.list_devices()
    wanted = len(found) if devices == "auto" else devices
    if wanted > len(found):
        raise LongtailError(f"training.devices = {devices}, but JAX finds {len(found)}: {', '.join(found)}")
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=found[:wanted], auto_shard_dataset=False) if wanted > 1 else None
    )


def in_use() -> int:
    """How many."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else int(distribution.num_model_replicas)


def divisible(inputs: dict[str, np.ndarray], labels: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The batch with rows of no weight at its end, so many that every device has as much of it."""
    missing = -len(labels) % in_use()
    if not missing:
        return inputs, labels
    padded = {name: _padded(values, missing, 0) for name, values in inputs.items()}
    return padded, _padded(labels, missing, -1)  # a label of −1 is none


def _padded(values: np.ndarray, rows: int, with_what: int) -> np.ndarray:
    more = np.full((rows, *values.shape[1:]), with_what, values.dtype)
    return np.concatenate([values, more])
