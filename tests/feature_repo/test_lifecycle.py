from __future__ import annotations

import pytest

from feature_repo.contract import FeatureValue
from feature_repo.lifecycle import DAY_S, Lifecycle, state_at, with_seen
from feature_repo.settings import LifecycleSettings

SETTINGS = LifecycleSettings()


def user(*, first: float, last: float, returned: float | None = None, visits: int = 1) -> dict[str, FeatureValue]:
    """Times in days."""
    return {
        "first_seen_unix_s": int(first * DAY_S),
        "last_seen_unix_s": int(last * DAY_S),
        "returned_unix_s": None if returned is None else int(returned * DAY_S),
        "visits_28d": visits,
    }


@pytest.mark.parametrize(
    ("row", "state", "days"),
    [
        ({}, Lifecycle.NEW, 0),
        ({"first_seen_unix_s": None, "last_seen_unix_s": None}, Lifecycle.NEW, 0),
        (user(first=95, last=99), Lifecycle.NEW, 5),
        (user(first=95, last=101), Lifecycle.NEW, 5),
        (user(first=50, last=99, visits=4), Lifecycle.ACTIVE, 43),
        (user(first=50, last=99, visits=3), Lifecycle.CASUAL, 43),
        (user(first=50, last=87), Lifecycle.CASUAL, 43),
        (user(first=50, last=86), Lifecycle.AT_RISK, 0),
        (user(first=50, last=80), Lifecycle.AT_RISK, 6),
        (user(first=50, last=70), Lifecycle.DORMANT, 0),
        (user(first=1, last=10), Lifecycle.DORMANT, 60),
        (user(first=1, last=98, returned=97, visits=9), Lifecycle.RESURRECTED, 3),
        (user(first=1, last=98, returned=90), Lifecycle.CASUAL, 3),
    ],
)
def test_a_user_is_in_the_first_state_that_holds_at_day_100(
    row: dict[str, FeatureValue], state: Lifecycle, days: float
) -> None:
    found, found_days = state_at(row, now_unix_s=100 * DAY_S, settings=SETTINGS)
    assert found == state
    assert found_days == pytest.approx(days)


def test_a_dormant_user_seen_again_is_resurrected_at_once() -> None:
    row = with_seen(user(first=1, last=10), [int(99 * DAY_S), int(5 * DAY_S)], settings=SETTINGS)
    assert state_at(row, now_unix_s=99 * DAY_S + 60, settings=SETTINGS)[0] == Lifecycle.RESURRECTED


def test_an_unknown_user_seen_for_the_first_time_is_new_and_counts_from_there() -> None:
    row = with_seen({}, [int(98 * DAY_S), int(99 * DAY_S)], settings=SETTINGS)
    assert state_at(row, now_unix_s=100 * DAY_S, settings=SETTINGS) == (Lifecycle.NEW, 2.0)


def test_history_the_row_knows_already_changes_nothing() -> None:
    row = user(first=1, last=10, returned=9)
    assert with_seen(row, [int(10 * DAY_S), int(2 * DAY_S)], settings=SETTINGS) == row


def test_thresholds_that_leave_nobody_at_risk_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at_risk_after_days .60. must be below dormant_after_days .30."):
        LifecycleSettings(at_risk_after_days=60)
