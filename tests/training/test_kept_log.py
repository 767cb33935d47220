"""Events that come in while a model is trained and measured change neither."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from feature_repo.errors import LongtailError
from feature_repo.events import Event
from feature_repo.log.event_log import EventLog
from feature_repo.log.extent import Extent
from feature_repo.settings import FeatureSettings
from tests.training.conftest import SMALL, START, VERSION, Trained, write_log
from training import artifact, workflow
from training.fitting import runs
from training.fitting.progress import Epoch, Progress
from training.reports import examination


def event(name: str, item: str, after_days: float) -> Event:
    at = START + timedelta(days=after_days)
    return Event(event_id=name, user_id="user-1", item_id=item, event_type="view", event_time=at)


NEWS = [event("late", "item-0-0-late", 1.0), event("new", "item-1-1", 400.0)]


@pytest.fixture
def state(trained: Trained, tmp_path: Path) -> Path:
    """The trained model's state, to which something came since."""
    folder = tmp_path / "state"
    shutil.copytree(trained.folder, folder)
    EventLog(folder / "events").append(NEWS)
    return folder


def run_of(events: Path, extent: Extent | None) -> runs.Run:
    return runs.start(events, FeatureSettings(), SMALL, extent=extent)


def test_a_model_is_asked_about_the_log_it_was_split_from(state: Path, trained: Trained) -> None:
    run = run_of(state / "events", workflow.kept_log(state / "training"))
    for name in ("user_ids", "item_ids", "user", "item", "time_us"):
        np.testing.assert_array_equal(getattr(run.log, name), getattr(trained.run.log, name))
    expected = examination.evaluate(trained.run, trained.model)[1]
    found = examination.evaluate(run, artifact.load(state / "training" / "model"))[1]
    np.testing.assert_allclose(
        found.answers["longtail"].per_user["ndcg"], expected.answers["longtail"].per_user["ndcg"]
    )


def test_the_command_measures_it_while_events_come_in(state: Path, trained: Trained) -> None:
    said = CliRunner().invoke(app, ["--state-dir", str(state), "evaluate"])
    assert said.exit_code == 0, said.output
    report = json.loads((state / "training" / "report.json").read_text())
    assert report["settings"] == trained.model.settings  # and not those that the command has


def test_the_log_of_now_is_not_the_one_it_was_split_from(state: Path, trained: Trained) -> None:
    with pytest.raises(LongtailError, match=r"was trained before .*`longtail train`"):
        examination.evaluate(run_of(state / "events", None), trained.model)


@pytest.mark.parametrize("lost", ["item", "import"])
def test_what_is_gone_from_its_log_is_told(state: Path, trained: Trained, lost: str) -> None:
    extent = workflow.kept_log(state / "training")
    assert extent is not None
    if lost == "import":
        extent = Extent(imports=("shop.parquet",), end=extent.end)
        with pytest.raises(LongtailError, match=r"learnt from are gone: shop.parquet"):
            run_of(state / "events", extent)
        return
    gone = trained.model.item_ids[0]
    later = artifact.load(state / "training" / "model")
    later.item_ids[0] = f"{gone}-of-an-erased-user"
    with pytest.raises(LongtailError, match="has other items now"):
        examination.evaluate(run_of(state / "events", extent), later)


def test_an_interrupted_training_goes_on_with_its_log(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(_: Epoch) -> None:
        raise KilledError

    events, training = write_log(tmp_path / "events", 0.95), tmp_path / "training"
    of_the_training_before = training / "checkpoints" / "refit" / "last.npz"
    of_the_training_before.parent.mkdir(parents=True)
    np.savez(of_the_training_before, state=json.dumps({"fingerprint": "of another log", "done_epochs": 1}))
    short = SMALL.model_copy(update={"max_epochs": 2})
    with pytest.raises(KilledError):
        workflow.train(
            runs.start(events, FeatureSettings(), short),
            training,
            version=VERSION,
            resume=False,
            progress=Progress(on_epoch=kill),
        )
    EventLog(events).append(NEWS)
    now, then = (
        runs.start(events, FeatureSettings(), short, extent=extent)
        for extent in (None, workflow.interrupted_log(training))
    )
    assert len(now.log) == len(then.log) + len(NEWS)
    with pytest.raises(LongtailError, match="resume"):
        workflow.train(now, training, version=VERSION, resume=True, progress=Progress())
    model = workflow.train(then, training, version=VERSION, resume=True, progress=Progress())
    assert "item-0-0-late" not in model.item_ids
    assert workflow.kept_log(training) == workflow.interrupted_log(training) == then.reader.extent
