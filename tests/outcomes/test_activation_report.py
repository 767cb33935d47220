"""`longtail report activation` over a world whose truth is known, and over logs with holes in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outcomes.activation_report import is_empty, report_of, write
from outcomes.arms import read_weights
from outcomes.decisions import Decisions
from outcomes.errors import OutcomeError
from outcomes.returning import NEVER, Visits, follow, not_yet_back, returned
from outcomes.user_days import DAY_S
from tests.outcomes.test_lifecycle_history import visits_of

START = 20_000  # a day since 1970
USERS = 4000


def decisions_of(rows: list[dict[str, Any]], assignments: list[tuple[str, ...]] = ()) -> Decisions:  # type: ignore[assignment]
    filled = [
        {"decision_id": f"d{place}", "reason": "", "campaign_id": "", "state": "dormant", "channel": "",
         "policy_version": "activation@v1", "decision": "show", "contact_propensity": 0.5, **row}
        for place, row in enumerate(rows)
    ]  # fmt: skip
    shown = [(row["decision_id"], f"i{place % 7}", 1, 1.0, False) for place, row in enumerate(filled)]
    return Decisions(
        decisions=pd.DataFrame(filled),
        shown=pd.DataFrame(shown, columns=["decision_id", "item_id", "rank", "propensity", "is_exploration"]),
        assignments=pd.DataFrame(assignments, columns=["decision_id", "experiment", "arm", "version"]),
    )


def events_of(rows: list[tuple[str, str, int]]) -> pd.DataFrame:
    columns = ["user_id", "event_type", "unix_s"]
    return pd.DataFrame(rows, columns=columns).assign(item_id="i1", event_id="", surface="push", decision_id="")


def a_world(seed: int, *, effect: float) -> tuple[Decisions, pd.DataFrame, Visits]:
    """Half of the users are held out; all were here once, 90 days before; some come back in the two weeks after."""
    rng = np.random.default_rng(seed)
    treated = rng.random(USERS) < 0.5
    back = rng.random(USERS) < 0.1 + effect * treated
    delay = rng.integers(1, 14, USERS)
    rows = [
        {
            "user_id": str(user),
            "decision": "show" if treated[user] else "hold_out",
            "reason": "" if treated[user] else "global_holdout",
            "at_unix_s": START * DAY_S + user,
        }
        for user in range(USERS)
    ]
    times = [(user, (START - 90) * DAY_S) for user in range(USERS)]
    times += [(user, (START + int(delay[user])) * DAY_S) for user in range(USERS) if back[user]]
    times += [(0, (START + 40) * DAY_S)]
    contacts = [(str(user), "contact", START * DAY_S) for user in range(USERS) if treated[user]]
    opt_outs = [(str(user), "opt_out", (START + 1) * DAY_S) for user in range(0, USERS, 20) if treated[user]]
    return decisions_of(rows), events_of(contacts + opt_outs), Visits(visits_of_fast(times))


def visits_of_fast(times: list[tuple[int, int]]) -> Any:
    """As `visits_of`, for many users whose times of a day do not matter."""
    from outcomes.user_days import UserDays

    frame = pd.DataFrame(times, columns=["user", "s"]).assign(day=lambda one: one["s"] // DAY_S)
    frame = frame.drop_duplicates(["user", "day"]).sort_values(["day", "user"])
    columns = {name: frame[source].to_numpy(np.int64) for name, source in
               (("user", "user"), ("day", "day"), ("first_s", "s"), ("last_s", "s"))}  # fmt: skip
    ids = np.array([str(user) for user in range(USERS)], dtype=object)
    return UserDays(user_ids=ids, before_s=np.full(len(frame), -1), **columns)


def test_what_came_back_because_of_it_is_found() -> None:
    log, events, visits = a_world(0, effect=0.06)
    report = report_of(log, events, visits, weights={}, window_days=14, confidence=0.95)
    group = report["groups"]["rankings"]
    assert group["all"]["verdict"] == "positive"
    assert group["all"]["effect"]["low"] < 0.06 < group["all"]["effect"]["high"]
    assert group["by_state"]["dormant"]["effect"] == group["all"]["effect"]
    contacts = group["contacts"]
    assert contacts["contacts"] == group["all"]["treated"]
    assert contacts["per_incremental_return"] == pytest.approx(1 / group["all"]["effect"]["value"])
    assert contacts["opt_out_rate"]["treated"] == pytest.approx(0.05, abs=0.01)
    assert contacts["opt_out_rate"]["held_out"] == 0
    assert group["back_within"]["treated"][14] > group["back_within"]["held_out"][14]
    assert report["shown"]["dormant"]["distinct_items"] == 7


def test_where_it_does_nothing_the_report_says_so(tmp_path: Path) -> None:
    log, events, visits = a_world(1, effect=0.0)
    report = report_of(log, events, visits, weights={}, window_days=14, confidence=0.95)
    assert report["groups"]["rankings"]["all"]["verdict"] == "not_shown"
    assert report["groups"]["rankings"]["contacts"]["per_incremental_return"] is None
    data, page = write(report, tmp_path)
    assert json.loads(data.read_text())["groups"] == json.loads(json.dumps(report["groups"]))
    assert "no effect is shown" in page.read_text().lower()


def test_a_campaign_and_an_experiment_are_compared_apart(tmp_path: Path) -> None:
    log, events, visits = a_world(2, effect=0.0)
    half = USERS // 2
    log.decisions.loc[:half, "campaign_id"] = "spring"
    shown = log.decisions[log.decisions["decision"] == "show"]["decision_id"]
    rng = np.random.default_rng(0)
    names = np.where(rng.random(len(shown)) < 0.25, "control", "novel")
    assigned = pd.DataFrame({"decision_id": shown, "experiment": "e", "arm": names, "version": "2"})
    assigned.iloc[:5, 3] = "1"
    policy = {"layers": [{"experiments": [{"name": "e", "arms": [{"name": "control", "weight": 1},
                                                                  {"name": "novel", "weight": 3}]}]}]}  # fmt: skip
    (tmp_path / "v1.json").write_text(json.dumps(policy))
    both = Decisions(decisions=log.decisions, shown=log.shown, assignments=assigned)
    report = report_of(both, events, visits, weights=read_weights(tmp_path), window_days=14, confidence=0.95)
    assert set(report["groups"]) == {"rankings", "campaign spring", "experiment e: novel against control"}
    group = report["groups"]["experiment e: novel against control"]
    assert group["other_versions"] == 5
    assert group["arms"] == {"treated": "novel", "held_out": "control"}
    assert group["all"]["verdict"] == "not_shown"
    (tmp_path / "v2.json").write_text("{}")
    with pytest.raises(OutcomeError, match="no policy that the gateway kept"):
        read_weights(tmp_path)


def test_the_first_decision_counts_and_the_visit_of_that_day_is_no_return() -> None:
    rows = [
        {"user_id": "0", "at_unix_s": START * DAY_S + 50, "decision": "suppressed"},
        {"user_id": "0", "at_unix_s": START * DAY_S + 60, "decision": "hold_out"},
        {"user_id": "0", "at_unix_s": START * DAY_S + 70, "decision": "show"},
        {"user_id": "", "at_unix_s": START * DAY_S, "decision": "show"},
        {"user_id": "unseen", "at_unix_s": START * DAY_S, "decision": "show"},
    ]
    visits = Visits(visits_of([(0, START * DAY_S + 80), (0, (START + 3) * DAY_S), (1, (START + 9) * DAY_S)]))
    decided = decisions_of(rows).decisions
    decided = decided.assign(is_treated=decided["decision"] == "show", propensity=0.5)
    users = follow(decided, visits, window_days=7).users.set_index("user_id")
    assert set(users.index) == {"0", "unseen"}
    assert not users.loc["0", "is_treated"]
    assert users.loc["0", "return_day"] == START + 3
    assert users.loc["unseen", "return_day"] == NEVER
    assert users["is_due"].all()
    assert returned(users, window_days=2).tolist() == [0, 0]
    assert not follow(decided, visits, window_days=10).users["is_due"].any()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=30),
    st.integers(0, 3),
    st.integers(0, 40),
)
def test_the_next_visit_and_the_count_are_those_of_a_plain_search(
    pairs: list[tuple[int, int]], user: int, day: int
) -> None:
    built = visits_of([(who, when * DAY_S) for who, when in pairs])
    visits = Visits(built)
    place = visits.places(pd.Series([str(user)]))
    days = sorted({when for who, when in pairs if who == user})
    assert visits.next_after(place, np.array([day]))[0] == next((one for one in days if one > day), NEVER)
    assert visits.count(place, np.array([day - 5]), np.array([day]))[0] == sum(day - 5 <= one < day for one in days)


def test_who_is_still_away_counts_so_long() -> None:
    users = pd.DataFrame({"day": [0, 0, 0, 8], "return_day": [2, 4, NEVER, NEVER]})
    curve = not_yet_back(users, last_day=10, days=5)
    assert curve[:3] == [1, 1, pytest.approx(3 / 4)]
    assert curve[4] == pytest.approx(3 / 4 * 1 / 2)


def test_a_log_in_which_nobodys_time_is_up_says_so() -> None:
    log, events, visits = a_world(3, effect=0.0)
    report = report_of(log, events, visits, weights={}, window_days=60, confidence=0.95)
    assert is_empty(report)
    assert report["groups"]["rankings"]["all"]["verdict"] == "too_few"
