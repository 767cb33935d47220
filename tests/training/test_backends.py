"""The same weights give the same scores on every Keras backend at hand, and a model trains there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_repo.errors import LongtailError
from tests.training.family_world import SEQUENCE, answers, lives, world
from training.fitting import devices
from training.fitting.batches import make_batches
from training.settings import TrainingSettings

DEVICES = 3  # of one machine, which the backend is made to see; the rows of a batch are no multiple of it


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_scores_and_learns_the_same_on_one_device_and_on_several(backend: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    several = DEVICES if backend == "jax" else 1
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.family_world", str(tmp_path / "answers.npz"), str(several)],
        cwd=Path(__file__).parents[2],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "answers.npz") as other:
        expected_answers = answers()
        for name in ("rank", "retrieve", "losses"):
            expected = expected_answers[name]
            np.testing.assert_allclose(other[name], expected, rtol=1e-3, atol=2e-4, err_msg=name)
        assert other["losses"][-1] < other["losses"][0]
        np.testing.assert_allclose(other["shared"], other["losses"], rtol=1e-4)
    if backend == "jax":
        assert done.stdout.startswith(f"training.devices = {DEVICES + 1}, but JAX finds {DEVICES}: cpu:0, cpu:1")


@pytest.mark.parametrize("encoder", ["transformer", "attention"])
def test_every_device_has_as_much_of_a_batch_and_what_is_added_counts_nothing(
    encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, examples, recommender = world(lives(6, 1, 14, 51, 3), encoder=encoder)
    chosen = TrainingSettings.model_validate({**SEQUENCE, "encoder": encoder})
    alone = list(_all(make_batches(examples, chosen)))
    monkeypatch.setattr(devices, "in_use", lambda: 5)
    shared = list(_all(make_batches(examples, chosen)))
    assert any(len(labels) % 5 for _, labels in alone)
    assert all(len(labels) % 5 == 0 for _, labels in shared)
    assert all(len(values) == len(labels) for inputs, labels in shared for values in inputs.values())
    for (inputs, labels), (more, more_labels) in zip(alone, shared, strict=True):
        loss = recommender.compute_loss(inputs, labels, recommender(inputs))
        padded = recommender.compute_loss(more, more_labels, recommender(more))
        assert float(padded) == pytest.approx(float(loss), rel=1e-5)


def _all(batches: Any) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    return (batches[index] for index in range(len(batches)))


def test_tensorflow_trains_on_one_device_and_says_what_several_need() -> None:
    devices.use("auto")
    devices.use(1)
    assert devices.in_use() == 1
    with pytest.raises(LongtailError, match=r"devices = 2 needs Keras on JAX: pip install 'longtail\[jax\]'"):
        world(lives(6, 1, 14), devices=2)
