"""A training that starts from the last one's weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_repo.events import Event
from feature_repo.log.event_log import EventLog
from tests.training.conftest import SMALL, START, VERSION, Trained, run_on, write_log
from training import workflow
from training.fitting import warm_start
from training.fitting.checkpoint import Checkpoints
from training.fitting.progress import Progress
from training.fitting.runs import Run
from training.fitting.warm_start import Names
from training.model import Recommender, build
from training.network.shape import ModelShape

SHAPE = ModelShape(num_users=3, num_items=2, num_event_types=2, encoder="transformer", embedding_size=8, num_terms=2)
SHAPE = replace(SHAPE, terms_per_item=2)


def names(*item_ids: str, types: tuple[str, ...] = ("buy", "view"), cut_us: int = 5) -> Names:
    return Names(
        item_ids=np.array(item_ids), event_types=np.array(types), terms=np.array(["green", "tea"]), cut_us=cut_us
    )


def filled(shape: ModelShape, value: float) -> Recommender:
    """Row k of every table is `value` + k."""
    recommender = build(shape)
    for variable in recommender.trainable_variables:
        rows = np.arange(variable.shape[0], dtype=np.float32).reshape(-1, *[1] * (len(variable.shape) - 1))
        variable.assign(np.broadcast_to(value + rows, variable.shape))
    return recommender


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    warm_start.keep(tmp_path, filled(SHAPE, 100.0), names("a", "b"))
    return tmp_path


def test_rows_are_found_again_by_name_and_users_begin_anew(kept: Path) -> None:
    subject = filled(replace(SHAPE, num_items=3, num_users=7), 0.0)
    said = warm_start.start_from(kept, subject, names("b", "new", "a"))
    assert said == "from the last training's weights: 2 of 3 items are known"
    assert np.asarray(subject.items.embeddings)[:, 0].tolist() == [100, 101, 103, 3, 102]
    assert np.asarray(subject.item_bias.embeddings)[:, 0].tolist() == [100, 101, 103, 3, 102]
    assert np.asarray(subject.user_weights.embeddings)[:, 0].tolist() == list(range(8))
    assert np.asarray(subject.shared_weights)[0] == 100


@pytest.mark.parametrize(
    ("shape", "cut_us", "why"),
    [
        (SHAPE, 4, "later events"),
        (replace(SHAPE, embedding_size=16), 6, "settings of the model changed"),
        (replace(SHAPE, num_terms=0), 6, "settings of the model changed"),
    ],
)
def test_what_does_not_fit_is_left_and_said(kept: Path, shape: ModelShape, cut_us: int, why: str) -> None:
    subject = filled(shape, 0.0)
    said = warm_start.start_from(kept, subject, names("a", "b", cut_us=cut_us))
    assert said.startswith("from scratch: ")
    assert why in said
    assert np.asarray(subject.items.embeddings)[0, 0] == 0


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_without_a_file_that_can_be_read_it_is_from_scratch(kept: Path, damage: str) -> None:
    file = kept / warm_start.FILE
    file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:50])
    assert warm_start.start_from(kept, filled(SHAPE, 0.0), names("a", "b")).startswith("from scratch: ")


def test_a_training_that_is_killed_leaves_it_to_the_next(kept: Path) -> None:
    Checkpoints(directory=kept, fingerprint="of the training that is killed").start()
    assert warm_start.start_from(kept, filled(SHAPE, 0.0), names("a", "b")).startswith("from the last training's")


def test_the_first_training_of_all_has_all_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, later = tmp_path / "first", tmp_path / "later"
    finished = later / "checkpoints" / "refit" / warm_start.FILE
    finished.parent.mkdir(parents=True)
    finished.touch()
    begun: list[tuple[int, bool]] = []

    def learn(run: Run, *_: Any, warm: bool, **__: Any) -> None:
        begun.append((run.settings.max_epochs, warm))
        raise InterruptedError

    monkeypatch.setattr(workflow, "learn", learn)
    run = run_on(write_log(tmp_path / "events", 0.95))
    for folder in (first, later):
        with pytest.raises(InterruptedError):
            workflow.train(run, folder, version=VERSION, resume=False, warm=True, progress=Progress())
    assert begun == [(SMALL.max_epochs, False), (SMALL.warm_epochs, True)]


def test_a_log_that_went_on_is_learnt_in_fewer_epochs(trained: Trained, tmp_path: Path) -> None:
    """From scratch one epoch is not enough on validation; from the last weights it is."""
    shutil.copytree(trained.folder / "training" / "checkpoints", tmp_path / "warm" / "checkpoints")
    log = EventLog(write_log(tmp_path / "events", 0.95))
    late = START + timedelta(days=200)
    log.append([Event(event_id="late", user_id="user-1", item_id="item-1-1", event_type="view", event_time=late)])
    once = SMALL.model_copy(update={"warm_epochs": 1, "max_epochs": 1})
    notes: list[str] = []
    run = run_on(tmp_path / "events", once)
    progress = Progress(on_note=notes.append)
    warm = workflow.train(run, tmp_path / "warm", version=VERSION, resume=False, warm=True, progress=progress)
    cold_ndcg = workflow.validation_score(run, tmp_path / "cold", progress=progress)
    assert [note.split(":")[0] for note in notes] == [
        "search from the last training's weights",
        "refit from the last training's weights",
    ]
    assert warm.curve[0]["validation_ndcg"] > cold_ndcg + 0.05
