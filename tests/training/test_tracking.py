"""Runs told to TensorBoard and MLflow: one contract for each tracker, and none that fails stops a run."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from training.fitting.progress import Epoch, Progress
from training.fitting.tracking import OpenTracker, RunTracker, TrackerError, tracked, trackers_of
from training.settings import NOT_LEARNING, TrainingSettings, learning_settings

Curve = dict[str, dict[int, float]]  # `search/loss` → epoch → value


class Records(Protocol):
    """Where a tracker keeps what it is told, and what is read there."""

    settings: TrainingSettings

    def open(self, run: str) -> OpenTracker: ...

    def curves(self, run: str) -> Curve: ...

    def shown_settings(self, run: str) -> str: ...


@dataclass
class Memory:
    """The fake: a list of what it was told."""

    settings: TrainingSettings = field(default_factory=TrainingSettings)
    kept: dict[str, Curve] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    ended: list[bool] = field(default_factory=list)

    def open(self, run: str) -> OpenTracker:
        def start() -> MemoryTracker:
            self.told[run] = str(learning_settings(self.settings))
            return MemoryTracker(self.kept.setdefault(run, {}), self.ended)

        return start

    def curves(self, run: str) -> Curve:
        return self.kept[run]

    def shown_settings(self, run: str) -> str:
        return self.told[run]


@dataclass
class MemoryTracker:
    curves: Curve
    ended: list[bool]

    def epoch(self, phase: str, epoch: Epoch) -> None:
        for name, value in epoch.measured().items():
            self.curves.setdefault(f"{phase}/{name}", {})[epoch.epoch] = value

    def end(self, *, succeeded: bool) -> None:
        self.ended.append(succeeded)


@dataclass
class TensorBoardRecords:
    settings: TrainingSettings

    def open(self, run: str) -> OpenTracker:
        return trackers_of(self.settings, run)["TensorBoard"]

    def curves(self, run: str) -> Curve:
        found: Curve = {}
        for tag, step, value in self._events(run):
            if tag != "settings":
                found.setdefault(tag, {})[step] = float(value)
        return found

    def shown_settings(self, run: str) -> str:
        return next(str(value) for tag, _, value in self._events(run) if tag == "settings")

    def _events(self, run: str) -> Iterator[tuple[str, int, Any]]:
        import tensorflow as tf

        assert self.settings.tensorboard_dir is not None
        for path in (self.settings.tensorboard_dir / run).iterdir():
            for record in tf.data.TFRecordDataset(str(path)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                for value in event.summary.value:
                    yield value.tag, event.step, tf.make_ndarray(value.tensor).item()


@dataclass
class MlflowRecords:
    settings: TrainingSettings

    def open(self, run: str) -> OpenTracker:
        return trackers_of(self.settings, run)["MLflow"]

    def curves(self, run: str) -> Curve:
        client, found = self._found(run)
        return {
            name: {point.step: point.value for point in client.get_metric_history(found.info.run_id, name)}
            for name in found.data.metrics
        }

    def shown_settings(self, run: str) -> str:
        return str(self._found(run)[1].data.params)

    def _found(self, run: str) -> tuple[Any, Any]:
        from mlflow.tracking import MlflowClient

        assert self.settings.mlflow_tracking_uri is not None
        client = MlflowClient(tracking_uri=self.settings.mlflow_tracking_uri.get_secret_value())
        experiment = client.get_experiment_by_name(self.settings.mlflow_experiment)
        assert experiment is not None
        (one,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{run}'")
        return client, one


@pytest.fixture(params=["memory", "tensorboard", "mlflow"])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Records:
    if request.param == "memory":
        return Memory()
    if request.param == "tensorboard":
        return TensorBoardRecords(TrainingSettings(tensorboard_dir=tmp_path / "deep" / "boards"))
    pytest.importorskip("mlflow")
    given = {"mlflow_tracking_uri": f"sqlite:///{tmp_path}/runs.db", "mlflow_experiment": "a trial"}
    return MlflowRecords(TrainingSettings.model_validate(given))


def run_through(progress: Progress) -> None:
    """What a training tells."""
    progress.on_phase("search on validation", 2)
    progress.on_epoch(Epoch(epoch=1, loss=2.0, validation_ndcg=0.25))
    progress.on_epoch(Epoch(epoch=2, loss=1.5, validation_ndcg=0.5))
    progress.on_phase("blend on validation", 0)
    progress.on_phase("refit on everything before the test", 1)
    progress.on_epoch(Epoch(epoch=1, loss=1.75, validation_ndcg=None))


def no_trouble(what: str) -> None:
    raise AssertionError(what)


def test_every_tracker_keeps_each_epoch_of_each_phase_and_run(records: Records) -> None:
    with tracked({"it": records.open("first")}, Progress(), on_trouble=no_trouble) as progress:
        run_through(progress)
    with tracked({"it": records.open("second")}, Progress(), on_trouble=no_trouble) as progress:
        progress.on_phase("search on validation", 1)
        progress.on_epoch(Epoch(epoch=1, loss=8.0, validation_ndcg=0.125))
    assert records.curves("first") == {
        "search/loss": {1: 2.0, 2: 1.5},
        "search/validation_ndcg": {1: 0.25, 2: 0.5},
        "refit/loss": {1: 1.75},
    }
    assert records.curves("second") == {"search/loss": {1: 8.0}, "search/validation_ndcg": {1: 0.125}}
    told = records.shown_settings("second")
    assert "learning_rate" in told
    assert "0.002" in told
    assert "mlflow_tracking_uri" not in told


def test_a_run_that_trains_nothing_is_told_to_none() -> None:
    def start() -> RunTracker:
        raise AssertionError("there is nothing to tell")

    with tracked({"it": start}, Progress(), on_trouble=no_trouble):
        pass


def test_how_a_run_ended_is_told() -> None:
    memory = Memory()
    with tracked({"it": memory.open("good")}, Progress(), on_trouble=no_trouble) as progress:
        run_through(progress)
    with (
        pytest.raises(KeyboardInterrupt),
        tracked({"it": memory.open("bad")}, Progress(), on_trouble=no_trouble) as progress,
    ):
        run_through(progress)
        raise KeyboardInterrupt
    assert memory.ended == [True, False]


def broken(what: str, tmp_path: Path) -> dict[str, OpenTracker]:
    if what == "a file is in the way":
        (tmp_path / "boards").write_text("no folder")
        return trackers_of(TrainingSettings(tensorboard_dir=tmp_path / "boards"), "run")
    if what == "no server":
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            uri = f"http://me:secret@127.0.0.1:{closed.getsockname()[1]}"
        return trackers_of(TrainingSettings.model_validate({"mlflow_tracking_uri": uri}), "run")
    if what == "no such store":
        return trackers_of(TrainingSettings.model_validate({"mlflow_tracking_uri": "gopher://runs"}), "run")
    return {"Fails later": FailsLater}


class FailsLater:
    def epoch(self, phase: str, epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise TrackerError("the disk is full")

    def end(self, *, succeeded: bool) -> None:
        raise AssertionError("it was given up")


@pytest.mark.parametrize("what", ["a file is in the way", "no server", "no such store", "it fails later"])
def test_a_tracker_that_fails_is_reported_once_and_stops_neither_the_run_nor_the_others(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    if what.startswith("no "):
        pytest.importorskip("mlflow")
    shown: list[Epoch] = []
    told: list[str] = []
    memory = Memory()
    trackers = broken(what, tmp_path) | {"memory": memory.open("run")}
    with tracked(trackers, Progress(on_epoch=shown.append), on_trouble=told.append) as progress:
        run_through(progress)
    assert len(shown) == 3
    assert memory.curves("run")["refit/loss"] == {1: 1.75}
    assert memory.ended == [True]
    assert len(told) == 1
    assert "is not told of this run any more: " in told[0]
    assert "secret" not in told[0]
    if what != "it fails later":
        assert "see training." in told[0]


def test_without_mlflow_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    settings = TrainingSettings.model_validate({"mlflow_tracking_uri": "sqlite:///runs.db"})
    with pytest.raises(TrackerError, match=r"pip install 'longtail\[mlflow\]'"):
        trackers_of(settings, "run")["MLflow"]()


def test_nothing_is_told_by_default_and_a_password_is_in_no_dump() -> None:
    assert trackers_of(TrainingSettings(), "run") == {}
    settings = TrainingSettings.model_validate({"mlflow_tracking_uri": "http://me:secret@runs"})
    assert "secret" not in settings.model_dump_json()
    assert {"mlflow_tracking_uri", "tensorboard_dir", "mlflow_experiment"} <= NOT_LEARNING
