"""Publishing: a server sees a whole version or none."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from feature_repo.contract import USER_WEIGHTS
from feature_repo.errors import LongtailError
from tests.training.conftest import VERSION, Trained
from training import artifact, workflow
from training.release import publish as publishing


@pytest.fixture
def exported(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.exported, tmp_path / "exports" / str(VERSION)))


def test_a_published_version_is_the_whole_export(exported: Path, tmp_path: Path) -> None:
    final = publishing.publish(exported, tmp_path / "models")
    names = {str(path.relative_to(exported)) for path in exported.rglob("*")}
    assert {str(path.relative_to(final)) for path in final.rglob("*")} == names
    assert [path.name for path in (tmp_path / "models").iterdir()] == [str(VERSION)]


def test_a_version_is_published_once(exported: Path, tmp_path: Path) -> None:
    publishing.publish(exported, tmp_path / "models")
    with pytest.raises(LongtailError, match="published already"):
        publishing.publish(exported, tmp_path / "models")


@pytest.mark.parametrize("lost", publishing.REQUIRED_FILES)
def test_a_half_written_export_is_refused(exported: Path, tmp_path: Path, lost: str) -> None:
    (exported / lost).unlink()
    with pytest.raises(LongtailError, match=rf"half-written.*{lost}"):
        publishing.publish(exported, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_an_export_of_another_contract_is_refused(exported: Path, tmp_path: Path) -> None:
    path = exported / "assets.extra/contract.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(LongtailError, match="99"):
        publishing.publish(exported, tmp_path / "models")


def test_an_export_under_another_name_is_refused(exported: Path, tmp_path: Path) -> None:
    renamed = exported.rename(exported.with_name("7"))
    with pytest.raises(LongtailError, match="not 7 as its name says"):
        publishing.publish(renamed, tmp_path / "models")


def test_without_an_export_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(LongtailError, match="longtail export"):
        publishing.latest_export(tmp_path)


def test_user_weights_are_rows_of_their_view(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "user_weights.parquet"
    weights = trained.model.user_weights()
    publishing.write_user_weights(path, weights, now=datetime(2026, 4, 1, tzinfo=UTC))
    table = pq.read_table(path)
    assert set(table.column_names) == {"user_id", "event_timestamp", *USER_WEIGHTS.feature_names()}
    np.testing.assert_array_equal(np.array(table["delta"].to_pylist(), np.float32), weights.weights)
    assert set(table["model_version"].to_pylist()) == {VERSION}


def test_an_export_from_before_its_refit_is_refused(tmp_path: Path) -> None:
    refitted = tmp_path / "refitted" / "model.json"
    refitted.parent.mkdir()
    refitted.write_text(json.dumps({"format": artifact.FORMAT, "version": VERSION}))
    with pytest.raises(LongtailError, match="run `longtail export` again"):
        workflow.check_exported(tmp_path, VERSION, is_refitted_export=False)
    workflow.check_exported(tmp_path, VERSION, is_refitted_export=True)
    workflow.check_exported(tmp_path, VERSION + 1, is_refitted_export=False)
