"""Two versions asked the same question: equal is equal, worse is told, and what saw the test is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from feature_repo.errors import LongtailError
from tests.training.conftest import VERSION, Trained
from training.export.saved_model import export
from training.release.incumbent import Published
from training.reports.version_comparison import Comparison, compare, find


def versions(trained: Trained, other: Path) -> tuple[Published, Published]:
    nothing = trained.folder / "none.parquet"
    return (
        Published(version=VERSION, directory=trained.exported, user_weights=nothing),
        find(str(other), (), user_weights=nothing),
    )


def ndcg(comparison: Comparison) -> dict[str, tuple[float, str]]:
    return {one.slice: (one.difference, one.verdict) for one in comparison.differences if one.metric == "ndcg"}


def test_a_version_is_no_better_than_itself(trained: Trained) -> None:
    found = compare(trained.run, *versions(trained, trained.exported))
    assert {"all", "tail", "thinnest"} <= set(ndcg(found))
    assert any(name.startswith("state: ") for name in ndcg(found))  # "dormant" alone is by the user's own rhythm
    assert all(one.difference == 0 and one.verdict == "" for one in found.differences)
    assert (found.first, found.second) == (VERSION, VERSION)


def test_a_version_that_takes_items_for_others_is_worse(trained: Trained, tmp_path: Path) -> None:
    mixed = replace(trained.model, version=VERSION + 1, item_ids=np.roll(trained.model.item_ids, 7))
    other = export(mixed, tmp_path / "exports", retrieve_k=8, candidate_buckets=(4, 16), metrics={})
    difference, verdict = ndcg(compare(trained.run, *versions(trained, other)))["all"]
    assert difference < -0.05
    assert verdict == "worse"
    back, better = ndcg(compare(trained.run, *reversed(versions(trained, other))))["all"]
    assert back == pytest.approx(-difference)
    assert better == "better"


def test_what_cannot_be_asked_is_refused(trained: Trained, tmp_path: Path) -> None:
    one, _ = versions(trained, trained.exported)
    longer = replace(
        trained.run, settings=trained.run.settings.model_copy(update={"test_from": 0.7, "validation_from": 0.5})
    )
    with pytest.raises(
        LongtailError, match=r"cannot be compared: it learnt from events until .* after the test begins"
    ):
        compare(longer, one, one)
    with pytest.raises(LongtailError, match=rf"names 'x', which is neither .* there are {VERSION}"):
        find("x", (trained.exported.parent,), user_weights=tmp_path / "none.parquet")
    assert find(str(VERSION), (tmp_path, trained.exported.parent), user_weights=tmp_path).directory == trained.exported


def test_the_command_compares_or_evaluates_but_not_both(tmp_path: Path) -> None:
    words = ["--state-dir", str(tmp_path), "evaluate", "--compare", "1", "2", "--topk", str(tmp_path / "top.parquet")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "without --topk and --split" in " ".join(result.output.replace("│", " ").split())
