"""States over time are those of `lifecycle.state_at`, day by day; growth accounting adds up."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli.main import app
from feature_repo.events import Event
from feature_repo.layout import StateDir
from feature_repo.lifecycle import state_at, with_seen
from feature_repo.log.event_log import EventLog
from feature_repo.settings import LifecycleSettings
from outcomes.growth import periods_of
from outcomes.lifecycle_history import STATES, UNSEEN, days_of, history_of, median_stay_days
from outcomes.user_days import DAY_S, UserDays

THRESHOLDS = LifecycleSettings(
    new_days=2, resurrected_days=3, at_risk_after_days=4, dormant_after_days=7, active_min_visits_28d=3
)


def visits_of(times: Sequence[tuple[int, int]]) -> UserDays:
    """From (user, s since 1970)."""
    by_day: dict[tuple[int, int], list[int]] = {}
    for user, at in times:
        by_day.setdefault((at // DAY_S, user), []).append(at)
    keys = sorted(by_day)
    before = [max((at for who, at in times if who == user and at // DAY_S < day), default=-1) for day, user in keys]
    users = sorted({user for _, user in keys})
    return UserDays(
        user_ids=np.array([str(user) for user in users], dtype=object),
        user=np.array([users.index(user) for _, user in keys]),
        day=np.array([day for day, _ in keys]),
        first_s=np.array([min(by_day[key]) for key in keys]),
        last_s=np.array([max(by_day[key]) for key in keys]),
        before_s=np.array(before),
    )


def state_by_the_definition(times: list[int], now_s: int) -> int:
    """As serving derives it: the row brought up to date event by event."""
    past = sorted(at for at in times if at < now_s)
    if not past:
        return UNSEEN
    row = with_seen({}, past, settings=THRESHOLDS)
    row["visits_28d"] = len({at // DAY_S for at in past if now_s - at <= 28 * DAY_S})
    state, _ = state_at(row, now_unix_s=now_s, settings=THRESHOLDS)
    return STATES.index(state)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60 * DAY_S)), min_size=1, max_size=25))
def test_each_day_has_the_state_of_the_one_definition(times: list[tuple[int, int]]) -> None:
    visits = visits_of(times)
    for day in days_of(visits, THRESHOLDS):
        expected = [
            state_by_the_definition([at for who, at in times if str(who) == name], (day.day + 1) * DAY_S)
            for name in visits.user_ids
        ]
        assert day.state.tolist() == expected, day.day


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40 * DAY_S)), min_size=1, max_size=30))
def test_nobody_vanishes(times: list[tuple[int, int]]) -> None:
    visits = visits_of(times)
    history = history_of(visits, THRESHOLDS)
    assert history.moves.sum() == history.counts.sum()
    assert history.counts[-1].sum() == visits.users == history.ongoing.sum() == history.moves[-1].sum()
    periods = periods_of(visits, period_days=7)
    for before, now in itertools.pairwise(periods):
        came_before = before.new + before.retained + before.resurrected
        assert now.retained + (now.churned or 0) == came_before


def test_growth_accounting_on_paper() -> None:
    """Weeks of users: 0 always; 1 in the first; 2 in the first and third; 3 from the second on."""
    weeks = {0: (0, 1, 2), 1: (0,), 2: (0, 2), 3: (1, 2)}
    times = [(user, week * 7 * DAY_S) for user, came in weeks.items() for week in came]
    times.append((0, 21 * DAY_S - 1))
    found = [
        (p.new, p.retained, p.resurrected, p.churned, p.quick_ratio)
        for p in periods_of(visits_of(times), period_days=7)
    ]
    assert found == [(3, 0, 0, None, None), (1, 1, 0, 2, 0.5), (0, 2, 1, 0, None)]


def test_a_stay_that_still_lasts_counts_as_longer_than_one_that_ended() -> None:
    ended, none = np.array([0, 1, 1, 1, 0]), np.zeros(5, np.int64)
    assert median_stay_days(ended, none) == 2
    assert median_stay_days(ended, np.array([0, 0, 0, 0, 3])) == 3
    assert median_stay_days(none, np.array([0, 0, 4, 0, 0])) is None


def test_the_command_writes_numbers_and_a_page(tmp_path: Path) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    log = EventLog(StateDir(tmp_path).events)
    acts = [
        Event(event_id=f"e{n}", user_id=f"u{n % 5}", item_id="i", event_type=kind, event_time=now + timedelta(days=n))
        for n, kind in enumerate(["view"] * 40 + ["exposure"] * 10)
    ]
    log.append(acts)
    result = CliRunner().invoke(app, ["--state-dir", str(tmp_path), "report", "lifecycle"])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "reports" / "lifecycle.json").read_text())
    assert (found["users"], len(found["days"])) == (5, 40)  # what we showed is no visit
    assert sum(found["shares"].values()) == pytest.approx(1)
    page = (tmp_path / "reports" / "lifecycle.html").read_text()
    assert page.count("data:image/png") == 2 and "quick ratio" in page


def test_an_empty_log_is_explained(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--state-dir", str(tmp_path), "report", "lifecycle"])
    assert "has no visit" in str(result.exception)
