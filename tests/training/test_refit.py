"""What is served has learnt the whole log; what was measured goes along, and is what the next gate asks."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from feature_repo.contract import USER_WEIGHTS
from feature_repo.errors import LongtailError
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.settings import FeatureSettings
from feature_repo.tables.build import offline_file
from tests.training.conftest import VERSION, Trained
from tests.training.test_kept_log import NEWS
from training import artifact, workflow
from training.artifact import TrainedModel
from training.evaluation.assessment import report_of
from training.examples.split import split
from training.export.saved_model import export
from training.export.serving_contract import measured_path, read_contract
from training.fitting import runs
from training.fitting.progress import Epoch, Progress
from training.fitting.runs import Run
from training.release.incumbent import Published, measured_weights
from training.release.publish import write_user_weights
from training.release.retraining import news_since
from training.reports import examination

NOW = datetime(2026, 9, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Refitted:
    """A state in which the model of the fixture `trained` was refitted after an event of an item nobody had met."""

    folder: Path
    measured: TrainedModel
    model: TrainedModel

    @property
    def training(self) -> Path:
        return self.folder / "training"


def of_one_epoch(trained: Trained, folder: Path) -> TrainedModel:
    """A copy of the state in `folder`; the kept model says that one epoch was best, so that a refit is short."""
    shutil.copytree(trained.folder, folder)
    EventLog(folder / "events").append(NEWS[:1])
    measured = replace(trained.model, best_epoch=1)
    artifact.save(measured, folder / "training" / "model")
    return measured


def run_of(folder: Path) -> Run:
    return runs.start(folder / "events", FeatureSettings(), workflow.kept_settings(folder / "training"))


@pytest.fixture(scope="module")
def once(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Refitted:
    folder = tmp_path_factory.mktemp("refitted") / "state"
    measured = of_one_epoch(trained, folder)
    model = workflow.refit(run_of(folder), folder / "training", resume=False, progress=Progress())
    return Refitted(folder=folder, measured=measured, model=model)


@pytest.fixture
def refitted(once: Refitted, tmp_path: Path) -> Refitted:
    """A copy that a test may change."""
    return replace(once, folder=Path(shutil.copytree(once.folder, tmp_path / "state")))


def longtail(folder: Path, *arguments: str) -> str:
    said = CliRunner().invoke(app, ["--state-dir", str(folder), *arguments])
    assert said.exit_code == 0, said.output
    return said.output


def test_the_whole_log_is_learnt_by_what_is_served(once: Refitted) -> None:
    measured, model = once.measured, once.model
    assert model.version == VERSION
    assert "item-0-0-late" in model.item_ids
    assert "item-0-0-late" not in measured.item_ids
    assert model.window_us[1] == run_of(once.folder).log.time_us.max() + 1 > measured.window_us[1]
    assert (model.best_epoch, model.curve) == (measured.best_epoch, measured.curve)
    np.testing.assert_array_equal(model.blend.rank.weights, measured.blend.rank.weights)
    assert artifact.load(workflow.to_serve(once.training)).window_us == model.window_us
    assert artifact.load(once.training / "model").window_us == measured.window_us


def test_the_next_gate_asks_what_was_measured(refitted: Refitted, trained: Trained) -> None:
    measured, model = refitted.measured, refitted.model
    exports = refitted.folder / "exports"
    directory = export(model, exports, retrieve_k=8, candidate_buckets=(4,), metrics={}, measured=measured)
    weights = refitted.folder / "user_weights.parquet"
    write_user_weights(weights, model.user_weights(), now=NOW)
    write_user_weights(measured_weights(weights), measured.user_weights(), now=NOW)
    published = Published(version=VERSION, directory=directory, user_weights=weights)
    assert not published.trouble(cut_us=measured.window_us[1])
    _, assessment = examination.evaluate(trained.run, measured, also={"incumbent": published.scorer})
    assert report_of(assessment)["slices"]["all"]["ndcg_over"]["incumbent"]["mean"] == pytest.approx(0.0, abs=1e-3)
    shutil.rmtree(measured_path(directory))
    assert "after the test begins" in published.trouble(cut_us=measured.window_us[1])


def test_the_commands_bring_it_into_service(refitted: Refitted) -> None:
    shutil.rmtree(refitted.folder / "exports")
    for step in ("evaluate", "export", "publish"):
        longtail(refitted.folder, step)
    state = StateDir(refitted.folder)
    version = state.models / str(VERSION)
    served, measured = read_contract(version), read_contract(measured_path(version))
    assert served["training_window"]["end"] == served["log_end"] > measured["training_window"]["end"]
    assert served["metrics"] == measured["metrics"] != {}
    card = (version / "assets.extra" / "model_card.md").read_text()
    assert f"until {served['training_window']['end']}" in card
    view = offline_file(state, USER_WEIGHTS)
    of_view, of_measured = pq.read_table(view), pq.read_table(measured_weights(view))
    for table in (of_view, of_measured):
        assert table["model_version"].unique().to_pylist() == [VERSION]
    assert not of_view["delta"].equals(of_measured["delta"])


def test_a_killed_refit_goes_on_with_its_log_and_a_warm_one_from_its_own_weights(
    trained: Trained, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def kill(_: Epoch) -> None:
        raise KilledError

    folder, training, notes = tmp_path / "state", tmp_path / "state" / "training", list[str]()
    measured = of_one_epoch(trained, folder)
    artifact.save(replace(measured, is_warm=True), training / "model")
    progress = Progress(on_epoch=kill, on_note=notes.append)
    with pytest.raises(KilledError):
        workflow.refit(run_of(folder), training, resume=False, progress=progress)
    assert notes == [f"whole from the last training's weights: {len(measured.item_ids)} of 81 items are known"]
    assert not workflow.is_refitted(training)
    EventLog(folder / "events").append(NEWS[1:])
    with pytest.raises(LongtailError, match="resume"):
        workflow.refit(run_of(folder), training, resume=True, progress=Progress())
    assert "learnt until 2026" in longtail(folder, "refit", "--resume")
    assert artifact.load(workflow.to_serve(training)).log == workflow.interrupted_refit_log(training)


def test_a_new_training_does_away_with_the_last_refit(refitted: Refitted, monkeypatch: pytest.MonkeyPatch) -> None:
    run, model = run_of(refitted.folder), refitted.measured
    learnt = workflow.Learnt(
        recommender=model.recommender,
        blend=model.blend,
        prepared=run.prepared(split(run.log, "temporal", run.settings).test),
        curve=model.curve,
        best_epoch=1,
    )
    monkeypatch.setattr(workflow, "learn", lambda *_, **__: learnt)
    workflow.train(run, refitted.training, version=2, resume=False, progress=Progress())
    assert not workflow.is_refitted(refitted.training)
    assert workflow.to_serve(refitted.training) == refitted.training / "model"


def test_a_student_is_served_as_it_was_measured(refitted: Refitted) -> None:
    artifact.save(replace(refitted.measured, teacher={"version": 7}), refitted.training / "model")
    with pytest.raises(LongtailError, match=r"student of 7.*`longtail export`"):
        workflow.refit(run_of(refitted.folder), refitted.training, resume=False, progress=Progress())


def test_a_published_version_is_not_learnt_anew(refitted: Refitted) -> None:
    before = artifact.load_user_weights(workflow.to_serve(refitted.training)).weights
    (StateDir(refitted.folder).models / str(VERSION)).mkdir(parents=True)
    said = CliRunner().invoke(app, ["--state-dir", str(refitted.folder), "refit"])
    assert said.exit_code == 1
    assert "published already" in str(said.exception) + said.output
    np.testing.assert_array_equal(artifact.load_user_weights(workflow.to_serve(refitted.training)).weights, before)


def test_without_a_model_there_is_nothing_to_refit(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["--state-dir", str(tmp_path), "refit"])
    assert said.exit_code == 1
    assert "run `longtail train` first" in str(said.exception) + said.output


def test_settings_of_another_time_are_told(refitted: Refitted) -> None:
    described = refitted.training / "model" / "model.json"
    known = json.loads(described.read_text())
    known["settings"]["no_longer_there"] = 1
    described.write_text(json.dumps(known))
    with pytest.raises(LongtailError, match=r"no_longer_there.*`longtail train`"):
        workflow.kept_settings(refitted.training)


def test_what_a_training_kept_for_its_test_is_no_news(trained: Trained, tmp_path: Path) -> None:
    events = Path(shutil.copytree(trained.folder / "events", tmp_path / "events"))
    assert news_since(events, trained.exported, FeatureSettings()).events == 0
    EventLog(events).append(NEWS)
    assert news_since(events, trained.exported, FeatureSettings()).events == 1
