"""The release gate: no segment may get worse, and whoever overrides that is on record."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from feature_repo.errors import LongtailError
from tests.training.conftest import VERSION, Trained
from training.evaluation.assessment import report_of
from training.release import dossier, gate
from training.release import publish as publishing
from training.release.gate import Verdict
from training.release.incumbent import Published
from training.reports import examination

NOW = datetime(2026, 4, 2, tzinfo=UTC)
OLD = VERSION - 1


def measured(mean: float | None, error: float | None = 0.01) -> dict[str, float | None]:
    return {"mean": mean, "error": error}


def report(differences: dict[str, tuple[float, float | None]], **incumbent: Any) -> dict[str, Any]:
    """A report of which only the differences to the incumbent matter."""
    metrics = {name: measured(0.2) for name in ("ndcg", "recall", "auc", "accuracy")}
    return {
        "version": VERSION,
        "split": "temporal",
        "counts": {"engagements": 1600, "users": 100, "items": 80},
        "training_window": {"start": "2026-01-01", "end": "2026-04-01"},
        "settings": {},
        "calibration": {"error": 0.01},
        "incumbent": {"version": OLD} | incumbent,
        "slices": {
            name: {
                "users": 50,
                "scorers": {"longtail": metrics, "incumbent": metrics},
                "ndcg_over": {"incumbent": measured(mean, error)},
            }
            for name, (mean, error) in ({"all": (0.0, 0.01)} | differences).items()
        },
    }


def judged(differences: dict[str, tuple[float, float | None]], **incumbent: Any) -> Verdict:
    return gate.judge(report(differences, **incumbent), candidate=VERSION, incumbent=OLD, errors=2.0)


def test_a_model_that_is_worse_in_one_segment_does_not_pass() -> None:
    verdict = judged({"tail": (0.05, 0.01), "state: dormant": (-0.05, 0.02)})
    assert not verdict.passes
    assert [segment.name for segment in verdict.regressions] == ["dormant"]


def test_a_difference_within_its_interval_is_no_regression() -> None:
    assert judged({"state: dormant": (-0.05, 0.03), "thinnest": (-0.01, 0.01)}).passes


def test_one_user_proves_nothing() -> None:
    assert judged({"state: new": (-0.5, None)}).passes


def test_slices_that_are_no_segment_are_not_judged() -> None:
    assert judged({"head": (-0.5, 0.01)}).passes


def test_the_first_version_has_nothing_to_be_worse_than() -> None:
    assert gate.judge(None, candidate=VERSION, incumbent=None, errors=2.0).passes


def test_a_version_in_service_is_not_released_again() -> None:
    with pytest.raises(LongtailError, match="published already"):
        gate.judge(report({}), candidate=VERSION, incumbent=VERSION, errors=2.0)


def test_a_version_that_was_not_evaluated_is_sent_back() -> None:
    with pytest.raises(LongtailError, match="longtail evaluate"):
        gate.judge(None, candidate=VERSION, incumbent=OLD, errors=2.0)


@pytest.mark.parametrize("compared", [{"version": OLD - 1}, {"version": None}])
def test_a_report_beside_another_version_is_sent_back(compared: dict[str, Any]) -> None:
    with pytest.raises(LongtailError, match=rf"{OLD} is in service; run `longtail evaluate` again"):
        judged({}, **compared)


def test_a_refusal_says_where_and_by_how_much(trained: Trained) -> None:
    verdict = judged({"state: dormant": (-0.05, 0.02)})
    with pytest.raises(LongtailError, match=r"dormant by 0\.0500 ± 0\.0200.*--override"):
        dossier.papers(trained.exported, report({}), verdict, override=None, now=NOW)


def test_a_model_that_cannot_be_compared_is_refused_with_the_reason(trained: Trained) -> None:
    verdict = judged({}, trouble="it reads other user features: age")
    with pytest.raises(LongtailError, match="other user features: age"):
        dossier.papers(trained.exported, report({}), verdict, override=None, now=NOW)


def test_an_override_is_on_record_in_release_and_card(trained: Trained) -> None:
    differences: dict[str, tuple[float, float | None]] = {"state: dormant": (-0.05, 0.02)}
    papers = dossier.papers(
        trained.exported, report(differences), judged(differences), override="the old one is broken", now=NOW
    )
    record = json.loads(papers["release.json"])
    assert record["override"] == "the old one is broken"
    assert record["regressions"] == ["dormant"]
    assert "Released against the gate: the old one is broken" in papers["model_card.md"]
    assert "| dormant | 50 |" in papers["model_card.md"]


def test_an_override_that_was_not_needed_is_not_recorded(trained: Trained) -> None:
    papers = dossier.papers(trained.exported, report({}), judged({}), override="to be safe", now=NOW)
    assert json.loads(papers["release.json"])["override"] is None


def test_an_override_without_a_reason_is_refused(trained: Trained) -> None:
    with pytest.raises(LongtailError, match="give the reason"):
        dossier.papers(trained.exported, report({}), judged({}), override=" ", now=NOW)


def test_the_papers_go_with_the_model(trained: Trained, tmp_path: Path) -> None:
    final = publishing.publish(trained.exported, tmp_path / "models", papers={"release.json": "{}"})
    assert (final / "assets.extra" / "release.json").read_text() == "{}"
    published = publishing.in_service(tmp_path / "models", user_weights=tmp_path / "none.parquet")
    assert published is not None
    assert (published.version, published.directory) == (VERSION, final)


def test_without_a_published_version_nothing_is_in_service(tmp_path: Path) -> None:
    assert publishing.in_service(tmp_path / "models", user_weights=tmp_path / "none.parquet") is None


def test_the_model_in_service_answers_the_question_as_it_did_in_training(trained: Trained, tmp_path: Path) -> None:
    final = publishing.publish(trained.exported, tmp_path / "models")
    weights = tmp_path / "user_weights.parquet"
    model = trained.model
    publishing.write_user_weights(weights, model.user_weights(), now=NOW)
    published = Published(version=VERSION, directory=final, user_weights=weights)
    assert not published.trouble(cut_us=model.window_us[1])
    _, assessment = examination.evaluate(trained.run, model, also={"incumbent": published.scorer})
    of_all = report_of(assessment)["slices"]["all"]
    assert of_all["ndcg_over"]["incumbent"]["mean"] == pytest.approx(0.0, abs=1e-3)
    assert of_all["scorers"]["incumbent"]["ndcg"]["mean"] > of_all["scorers"]["popularity"]["ndcg"]["mean"]


def test_a_model_that_has_seen_the_test_is_not_asked(trained: Trained, tmp_path: Path) -> None:
    published = Published(version=VERSION, directory=trained.exported, user_weights=tmp_path / "none.parquet")
    assert "after the test begins" in published.trouble(cut_us=trained.model.window_us[1] - 1_000_000)


def test_a_version_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    published = Published(version=1, directory=tmp_path, user_weights=tmp_path / "none.parquet")
    assert "cannot be read" in published.trouble(cut_us=0)
