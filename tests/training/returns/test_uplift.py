"""What a contact changes: found where it changes something for some, not claimed where it changes nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from feature_repo.decisions.records import SCHEMA
from feature_repo.lifecycle import DAY_S
from feature_repo.settings import FeatureSettings
from training.returns import uplift
from training.returns.examples import FEATURES, open_returns
from training.returns.targeting import judge, qini_curve
from training.returns.trials import Trials, read_trials
from training.returns.workflow import BGNBD, RETURN_MODEL, UPLIFT_MODEL

START = datetime(2026, 1, 1, tzinfo=UTC)
CAMPAIGN_DAY, END_DAY, HORIZON = 70.4, 100, 14
USERS = 2_400


def world(state: Path, *, lift: float, seed: int = 0) -> dict[str, bool]:
    """Half of the users are busy. One in four comes back after the campaign; of the busy who were contacted, more by
    `lift`. Returns who is busy."""
    rng = np.random.default_rng(seed)
    is_busy = rng.random(USERS) < 0.5
    is_treated = rng.random(USERS) < 0.6
    visits = []
    for user in range(USERS):
        days = rng.uniform(0, 60 if is_busy[user] else 30, 8 if is_busy[user] else 3)
        came = int(rng.random() < 0.25 + lift * (is_busy[user] and is_treated[user]))
        visits += [(user, day) for day in days] + [(user, CAMPAIGN_DAY + rng.uniform(0.1, HORIZON - 1))] * came
    visits.append((0, float(END_DAY)))
    write_visits(state / "events", visits)
    at = (START + timedelta(days=CAMPAIGN_DAY)).timestamp()
    decided = [
        decision(f"u{user}", at, "show" if is_treated[user] else "hold_out", propensity=0.6) for user in range(USERS)
    ]
    write_decisions(state / "decisions", decided)
    return {f"u{user}": bool(is_busy[user]) for user in range(USERS)}


def write_visits(directory: Path, visits: list[tuple[int, float]]) -> None:
    times = pd.to_datetime([START + timedelta(days=day) for _, day in visits]).astype("datetime64[us, UTC]")
    columns = {"event_id": [f"e{n}" for n in range(len(visits))], "user_id": [f"u{user}" for user, _ in visits]}
    directory.mkdir(parents=True)
    frame = pd.DataFrame(
        columns
        | {"item_id": "i", "event_type": "view", "event_time": times, "value": np.nan, "surface": "", "decision_id": ""}
    )
    frame.to_parquet(directory / "log.parquet", index=False)


def decision(
    user_id: str, at_unix_s: float, decided: str, *, propensity: float, campaign_id: str = "spring"
) -> dict[str, object]:
    return {
        "decision_id": f"{campaign_id}-{user_id}-{at_unix_s}",
        "at_unix_s": at_unix_s,
        "user_id": user_id,
        "decision": decided,
        "campaign_id": campaign_id,
        "contact_propensity": propensity,
    }


def write_decisions(directory: Path, rows: list[dict[str, object]]) -> None:
    directory.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), directory / "1-1.parquet")


def trials_of(state: Path) -> Trials:
    reader = open_returns(state / "events", FeatureSettings())
    return read_trials(reader, state / "decisions", horizon_days=HORIZON, until=reader.span()[1])


def run(state: Path) -> tuple[str, dict[str, object], pd.DataFrame]:
    command = ["--state-dir", str(state), "train-returns", "--horizon-days", str(HORIZON)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    report = json.loads((state / "training/returns.json").read_text())
    return result.stdout, report, pd.read_parquet(state / "features/user_returns.parquet")


def test_whom_a_contact_brings_back_is_learnt_and_released(tmp_path: Path) -> None:
    is_busy = world(tmp_path, lift=0.4)
    output, report, rows = run(tmp_path)
    found = report["uplift"]
    assert found["released"] in uplift.LEARNERS  # type: ignore[index]
    assert found["mean_effect"]["low"] < 0.2 < found["mean_effect"]["high"]  # type: ignore[index]
    assert "uplift: the " in output and "Qini +" in output
    effect = (rows["p_return_contacted"] - rows["p_return"]).groupby(rows["user_id"].map(is_busy)).mean()
    assert effect[True] > effect[False] + 0.2
    assert set(rows["basis"]) == {UPLIFT_MODEL} == {report["basis"]}
    assert rows["p_return_contacted"].between(0, 1).all()


def test_where_a_contact_changes_nothing_nothing_is_claimed(tmp_path: Path) -> None:
    world(tmp_path, lift=0.0)
    output, report, rows = run(tmp_path)
    assert report["uplift"]["released"] is None  # type: ignore[index]
    assert "stays an assumption" in output
    assert rows["p_return_contacted"].isna().all()
    assert set(rows["basis"]) <= {BGNBD, RETURN_MODEL}


def test_without_a_holdout_it_says_what_is_missing(tmp_path: Path) -> None:
    world(tmp_path, lift=0.4)
    rows = pq.read_table(tmp_path / "decisions/1-1.parquet").to_pylist()
    everyone = [row | {"decision": "show", "contact_propensity": 1.0} for row in rows]
    pq.write_table(pa.Table.from_pylist(everyone, schema=SCHEMA), tmp_path / "decisions/1-1.parquet")
    output = run(tmp_path)[0]
    assert "uplift: the decision log has no campaign with a holdout" in output
    few = [row | {"decision": "show" if n else "hold_out"} for n, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(few, schema=SCHEMA), tmp_path / "decisions/1-1.parquet")
    assert "of 1 users held out" in run(tmp_path)[0]


def test_a_trial_is_the_first_draw_of_a_user_in_a_campaign_whose_time_has_run_out(tmp_path: Path) -> None:
    write_visits(tmp_path / "events", [(1, 1.0), (1, 22.0), (2, 1.0), (3, 1.0), (3, 40.0), (0, 60.0)])
    at = START.timestamp()
    write_decisions(
        tmp_path / "decisions",
        [
            decision("u1", at + 20 * DAY_S, "show", propensity=0.6),
            decision("u1", at + 21 * DAY_S, "hold_out", propensity=0.6),  # not the first
            decision("u2", at + 20 * DAY_S, "hold_out", propensity=0.6),
            decision("u2", at + 20 * DAY_S, "show", propensity=1.0, campaign_id="no draw"),
            decision("u3", at + 50 * DAY_S, "show", propensity=0.6),  # not due
            decision("u3", at + 20 * DAY_S, "suppressed", propensity=0.6),
            decision("u3", at + 20 * DAY_S, "show", propensity=0.6, campaign_id=""),  # a ranking
            decision("stranger", at + 20 * DAY_S, "show", propensity=0.6),  # nothing is known of them
        ],
    )
    found = trials_of(tmp_path)
    assert found.user_id.tolist() == ["u1", "u2"]
    assert found.is_treated.tolist() == [True, False]
    assert found.came.tolist() == [1, 0]
    assert found.not_due == 1
    idle = found.features[:, FEATURES.index("days_since_last_seen")]
    np.testing.assert_allclose(idle, [19, 19])  # as the day began


def made_up(effect: np.ndarray, seed: int = 0) -> Trials:
    """Users with one feature, from 0 to 1; a base rate of 0.3."""
    rng = np.random.default_rng(seed)
    size = len(effect)
    w = rng.random(size) < 0.5
    features = np.full((size, len(FEATURES)), np.nan)
    features[:, 0] = np.linspace(0, 1, size)
    return Trials(
        user_id=np.array([f"u{n // 2}" for n in range(size)], dtype=object),
        features=features,
        is_treated=w,
        propensity=np.full(size, 0.5),
        came=(rng.random(size) < 0.3 + effect * w).astype(float),
    )


def test_every_learner_finds_a_known_effect() -> None:
    true = np.where(np.arange(4_000) < 2_000, 0.0, 0.4)
    found = uplift.cross_fitted(made_up(true))
    assert found.gain.mean() == pytest.approx(0.2, abs=0.06)
    for name, effect in found.effects.items():
        assert effect[2_000:].mean() - effect[:2_000].mean() > 0.25, name


def test_the_gain_is_right_in_the_mean_whatever_the_models_say() -> None:
    trials = made_up(np.full(40_000, 0.2))
    gain = uplift.doubly_robust(trials, lambda x: np.full(len(x), 0.9), lambda x: np.full(len(x), 0.8))
    assert gain.mean() == pytest.approx(0.2, abs=0.02)


def test_no_model_is_judged_on_its_own_users() -> None:
    user_id = np.array([f"u{n % 50}" for n in range(200)], dtype=object)
    outsides = []
    for inside, outside in uplift.folds(user_id, seed=0):
        assert not set(user_id[inside]) & set(user_id[outside])
        outsides += outside.tolist()
    assert sorted(outsides) == list(range(200))


def test_qini_on_paper() -> None:
    gain, users = np.array([1.0, 1.0, 0.0, 0.0]), np.array(["a", "b", "c", "d"], dtype=object)
    best, worst, same = (judge(np.array(effect), gain, users) for effect in ([4, 3, 2, 1.0], [1, 2, 3, 4.0], [0] * 4))
    assert best.mean_effect.value == same.mean_effect.value == 0.5
    # the best order gains 1/4, 2/4, 2/4, 2/4: its area is 3/8, of which a random order has 1/4
    assert best.auuc.value == pytest.approx(3 / 8)
    assert best.qini.value == pytest.approx(1 / 8)
    assert worst.qini.value == pytest.approx(-1 / 8)
    assert same.qini.value == pytest.approx(0)
    assert best.qini.low <= best.qini.value <= best.qini.high
    np.testing.assert_allclose(qini_curve(np.zeros(4), gain), [1 / 8, 2 / 8, 3 / 8, 4 / 8])


def test_the_interval_of_a_random_order_covers_nothing_at_all() -> None:
    """At 95 % it leaves out 0 in about one of twenty."""
    missed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        gain = rng.normal(0.1, 1.0, 300)
        users = np.array([f"u{n}" for n in range(300)], dtype=object)
        qini = judge(rng.random(300), gain, users, seed=seed).qini
        missed += not qini.low <= 0 <= qini.high
    assert missed <= 6
