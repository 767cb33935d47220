"""A log with a known structure, and one small model trained and exported from it, shared by the tests."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from feature_repo.events import Event
from feature_repo.log.event_log import EventLog
from feature_repo.settings import FeatureSettings
from training import artifact, workflow
from training.artifact import TrainedModel
from training.export.saved_model import export
from training.fitting import runs
from training.fitting.progress import Progress
from training.fitting.runs import Run
from training.settings import TrainingSettings

TASTES, ITEMS_PER_TASTE, USERS, EVENTS = 4, 20, 100, 16
START = datetime(2026, 1, 1, tzinfo=UTC)
VERSION = 20260401000000
SMALL = TrainingSettings(
    encoder="attention",
    embedding_size=16,
    num_heads=2,
    dropout=0.1,
    max_epochs=18,
    patience=18,
    learning_rate=4e-3,
    retrieve_k=8,
)

MakeLog = Callable[[Path, float], Path]


def write_log(directory: Path, structure: float, *, seed: int = 3) -> Path:
    """Events of users who stay with one shelf of items with probability `structure`, else take any item."""
    rng = np.random.default_rng(seed)
    events = []
    for user in range(USERS):
        at = START + timedelta(days=float(rng.uniform(0, 60)))
        for step in range(EVENTS):
            shelf = user % TASTES if rng.random() < structure else int(rng.integers(TASTES))
            item = f"item-{shelf}-{int(rng.integers(ITEMS_PER_TASTE))}"
            at += timedelta(hours=float(rng.exponential(36)))
            event = Event(
                event_id=f"{user}-{step}", user_id=f"user-{user}", item_id=item, event_type="view", event_time=at
            )
            events.append(event)
    EventLog(directory).append(events)
    return directory


def run_on(directory: Path, settings: TrainingSettings = SMALL) -> Run:
    return runs.start(directory, FeatureSettings(), settings)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One trained and exported model. All tests of all workers read the folder: a test that writes takes a copy."""

    run: Run
    folder: Path
    model: TrainedModel
    exported: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Trained:
    """Trained by the worker that asks first; the others wait and read it."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "trained"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            train_and_export(tmp_path_factory.mktemp("training")).rename(folder)
    return Trained(
        run=run_on(folder / "events"),
        folder=folder,
        model=artifact.load(folder / "training" / workflow.MODEL_FOLDER),
        exported=folder / "exports" / str(VERSION),
    )


def train_and_export(directory: Path) -> Path:
    run = run_on(write_log(directory / "events", 0.95))
    model = workflow.train(run, directory / "training", version=VERSION, resume=False, progress=Progress())
    export(model, directory / "exports", retrieve_k=8, candidate_buckets=(4, 16), metrics={})
    return directory
