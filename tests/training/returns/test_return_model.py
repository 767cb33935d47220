"""Who comes back: learnt where there is something BG/NBD cannot see, not learnt where there is nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from feature_repo.contract import USER_RETURNS
from feature_repo.errors import LongtailError
from feature_repo.events import Event
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.settings import FeatureSettings
from feature_repo.tables import bgnbd
from tests.reference_data import reference_file
from training.returns import measures
from training.returns.examples import FEATURES, Examples, moments, open_returns
from training.returns.workflow import BGNBD, RETURN_MODEL, Trained, train

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 160


def world(directory: Path, *, users: int, has_signal: bool, seed: int = 0) -> Path:
    """Poisson visitors who are never lost; with a signal, a high value on a visit announces 40 days of absence."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        at = float(rng.uniform(0, 20))
        while at < DAYS:
            is_last = rng.random() < 0.3
            rows.append((f"u{user}", at, 100.0 * is_last if has_signal else float(rng.random() < 0.3)))
            at += rng.exponential(6.0) + (40.0 if is_last and has_signal else 0.0)
    times = [START + timedelta(days=at) for _, at, _ in rows]
    frame = pd.DataFrame(
        {
            "event_id": [f"e{n}" for n in range(len(rows))],
            "user_id": [user for user, _, _ in rows],
            "item_id": "i",
            "event_type": "purchase",
            "event_time": pd.to_datetime(times).astype("datetime64[us, UTC]"),
            "value": [value for _, _, value in rows],
            "surface": "",
            "decision_id": "",
        }
    )
    directory.mkdir(parents=True)
    frame.to_parquet(directory / "log.parquet", index=False)
    return directory


def trained(directory: Path) -> Trained:
    return train(open_returns(directory, FeatureSettings()), horizon_days=14)


def test_what_announces_an_absence_is_learnt_and_the_model_released(tmp_path: Path) -> None:
    found = trained(world(tmp_path / "events", users=600, has_signal=True))
    assert found.basis == RETURN_MODEL
    judged = found.report["judged"]
    assert judged["auc_gain"]["mean"] > 0.05
    assert judged["return_model"]["calibration_error"] < 0.08
    assert ((found.p_return > 0) & (found.p_return < 1)).all()


def test_where_visits_are_chance_nothing_is_learnt(tmp_path: Path) -> None:
    found = trained(world(tmp_path / "events", users=300, has_signal=False))
    assert found.report["judged"]["return_model"]["auc"] < 0.6


def test_where_the_log_is_too_short_to_judge_a_model_bgnbd_stands_in(tmp_path: Path) -> None:
    directory = world(tmp_path / "events", users=300, has_signal=True)
    found = train(open_returns(directory, FeatureSettings()), horizon_days=60)
    assert found.basis == BGNBD and "too short" in found.report["reason"]
    assert np.array_equal(found.p_return, found.now.bgnbd)


def examples(directory: Path, at: datetime) -> Examples:
    return open_returns(directory, FeatureSettings()).at(at, horizon_days=14, until=START + timedelta(days=DAYS))


def test_what_is_known_at_a_moment_does_not_change_with_what_comes_after(tmp_path: Path) -> None:
    directory, at = world(tmp_path / "events", users=40, has_signal=True), START + timedelta(days=90)
    before = examples(directory, at)
    log = pd.read_parquet(directory / "log.parquet")
    log[log["event_time"] < at].to_parquet(directory / "log.parquet", index=False)
    after = examples(directory, at)
    assert np.array_equal(before.features, after.features, equal_nan=True)
    assert before.came.sum() > after.came.sum() == 0
    assert before.features.shape == (len(before), len(FEATURES))


def test_a_contact_is_no_visit_and_marks_who_was_contacted(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events")
    day = timedelta(days=1)
    acts = [("seen", "view", 1), ("seen", "contact", 31), ("back", "view", 1), ("back", "view", 35)]
    acts.append(("late", "view", 50))
    log.append(
        [
            Event(event_id=f"e{n}", user_id=user, item_id="i", event_type=kind, event_time=START + after * day)
            for n, (user, kind, after) in enumerate(acts)
        ]
    )
    found = examples(tmp_path / "events", START + 30 * day)
    rows = dict(zip(found.user_id, zip(found.came, found.contacted, strict=True), strict=True))
    assert rows == {"seen": (0, True), "back": (1, False)}


def test_the_last_moment_is_one_whose_horizon_the_log_covers() -> None:
    found = moments(START, START + timedelta(days=60), horizon_days=14, most=3)
    assert [(at - START).days for at in found] == [32, 39, 46]
    assert moments(START, START + timedelta(days=20), horizon_days=14, most=3) == []


def test_measures_on_paper() -> None:
    label, sure = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.4, 0.35, 0.8])
    assert measures.auc(label, sure) == 0.75
    assert measures.auc(np.ones(3), np.ones(3)) is None
    assert measures.brier(label, label) == 0
    probability = np.repeat([0.2, 0.8], 500)
    calibrated = np.concatenate([np.repeat([1.0, 0.0], [100, 400]), np.repeat([1.0, 0.0], [400, 100])])
    rng = np.random.default_rng(0)
    order = rng.permutation(500)
    mixed = np.concatenate([calibrated[:500][order], calibrated[500:][order]])
    assert measures.calibration_error(mixed, probability) < 0.06
    assert measures.calibration_error(mixed, 1 - probability) > 0.5


def test_p_visit_is_that_of_the_models_story() -> None:
    """Of a user sure to be alive it is the Gamma mixture's; far ahead it is P(alive)."""
    model = bgnbd.BgNbd(r=0.5, alpha=7.0, a=0.8, b=2.5)
    zero, age = np.zeros(1), np.array([30.0])
    assert model.p_visit(10, zero, zero, age)[0] == pytest.approx(1 - (37 / 47) ** 0.5)
    x, t_x = np.array([3.0]), np.array([20.0])
    assert model.p_visit(1e12, x, t_x, age)[0] == pytest.approx(model.p_alive(x, t_x, age)[0], abs=1e-6)


def test_the_command_writes_rows_of_the_view_and_says_what_they_stand_on(tmp_path: Path) -> None:
    world(StateDir(tmp_path).events, users=120, has_signal=True)
    result = CliRunner().invoke(app, ["--state-dir", str(tmp_path), "train-returns", "--horizon-days", "14"])
    assert result.exit_code == 0, result.output
    table = pq.read_table(tmp_path / "features" / "user_returns.parquet")
    assert set(table.column_names) == {"user_id", "event_timestamp", *USER_RETURNS.feature_names()}
    assert table["p_return_contacted"].null_count == table.num_rows == 120
    report = json.loads((tmp_path / "training" / "returns.json").read_text())
    assert set(table["basis"].to_pylist()) == {report["basis"]}


@pytest.mark.parametrize(("days", "said"), [(0, "is empty"), (10, "needs twice as many"), (80, "BG/NBD has no fit")])
def test_a_log_that_cannot_teach_is_explained(tmp_path: Path, days: int, said: str) -> None:
    log = EventLog(tmp_path)
    at = [START, START + timedelta(days=days)] if days else []
    ids = {"user_id": "u", "item_id": "i"}
    log.append([Event(event_id=f"{n}", event_type="view", event_time=at[n], **ids) for n in range(len(at))])  # type: ignore[arg-type]
    with pytest.raises(LongtailError, match=said):
        trained(tmp_path)


def test_where_nobody_did_anything_no_empty_view_is_written(tmp_path: Path) -> None:
    at = [START + timedelta(days=day) for day in range(60)]
    ids = {"user_id": "u", "item_id": "i", "event_type": "exposure"}
    EventLog(tmp_path).append([Event(event_id=f"{n}", event_time=at[n], **ids) for n in range(60)])  # type: ignore[arg-type]
    with pytest.raises(LongtailError, match="nobody did anything"):
        trained(tmp_path)


def test_a_moment_before_the_log_is_named(tmp_path: Path) -> None:
    reader = open_returns(world(tmp_path / "log", users=1, has_signal=True), FeatureSettings())
    with pytest.raises(LongtailError, match=r"2020-01-01.* is not after the first event"):
        train(reader, horizon_days=14, as_of=datetime(2020, 1, 1, tzinfo=UTC))


def test_bgnbd_on_cdnow_is_as_likely_as_that_of_the_lifetimes_library() -> None:
    """lifetimes 0.11.3, BetaGeoFitter without a penalty, on the same arrays: weeks, up to 1997-09-30."""
    log = pd.read_parquet(reference_file("cdnow/transactions.parquet")).dropna()
    log = log[log["date"] <= "1997-09-30"]
    day = (log["date"] - pd.Timestamp("1997-01-01")).dt.days
    users = day.groupby(log["customer_id"]).agg(["min", "max", "nunique"])
    x = (users["nunique"] - 1).to_numpy(np.float64)
    t_x, age = ((users["max"] - users["min"]) / 7).to_numpy(np.float64), ((272 - users["min"]) / 7).to_numpy(np.float64)
    model = bgnbd.fit(x, t_x, age)
    assert model is not None
    reference = np.array([0.251624011424, 4.788945170327, 0.723433035729, 2.161086981372])
    ours = np.array([model.r, model.alpha, model.a, model.b])
    likelihoods = [float(bgnbd.log_likelihood(found, x, t_x, age).sum()) for found in (ours, reference)]
    assert likelihoods[0] == pytest.approx(likelihoods[1], abs=1e-3)
    assert ours == pytest.approx(reference, rel=1e-3)
