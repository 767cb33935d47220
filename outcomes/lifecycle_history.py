"""Every user's lifecycle state at the end of every day: `lifecycle.state_at` over arrays, one pass over the days.

The state of a day is that at the midnight which ends it. A user not seen yet has no state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from feature_repo.lifecycle import Lifecycle
from feature_repo.settings import LifecycleSettings
from outcomes.estimate import Integers
from outcomes.user_days import DAY_S, UserDays

STATES: Final = tuple(Lifecycle)
UNSEEN: Final = -1
VISITS_DAYS: Final = 28
NEVER: Final = -(2**62)

States = npt.NDArray[np.int8]


@dataclass(frozen=True, kw_only=True)
class Day:
    """One day's end. `state` is an index of STATES or UNSEEN. [users]"""

    day: int
    state: States


def days_of(visits: UserDays, settings: LifecycleSettings) -> Iterator[Day]:
    """From the first day with a visit to the last. The array of a day is its own."""
    seen = _Seen(visits.users)
    first, last = int(visits.day[0]), int(visits.day[-1])
    starts = np.searchsorted(visits.day, np.arange(first, last + 2))
    for day in range(first, last + 1):
        now = slice(starts[day - first], starts[day - first + 1])
        left = day - VISITS_DAYS - first
        gone = visits.user[starts[left] : starts[left + 1]] if left >= 0 else visits.user[:0]
        seen.visits[gone] -= 1
        _see(seen, visits, now, settings)
        yield Day(day=day, state=states_at(seen, now_s=(day + 1) * DAY_S, settings=settings))


class _Seen:
    """What is known of each user so far, s since 1970. [users]"""

    def __init__(self, users: int) -> None:
        self.first_s = np.full(users, NEVER)
        self.last_s = np.full(users, NEVER)
        self.returned_s = np.full(users, NEVER)
        self.visits = np.zeros(users, np.int64)  # active days in VISITS_DAYS


def _see(seen: _Seen, visits: UserDays, now: slice, settings: LifecycleSettings) -> None:
    user, first_s, before_s = visits.user[now], visits.first_s[now], visits.before_s[now]
    is_first = before_s < 0
    seen.first_s[user[is_first]] = first_s[is_first]
    seen.last_s[user] = visits.last_s[now]
    # a gap within a day is shorter than a day; thresholds below a day are for the views alone to tell
    is_return = ~is_first & (first_s - before_s >= settings.dormant_after_days * DAY_S)
    seen.returned_s[user[is_return]] = first_s[is_return]
    seen.visits[user] += 1


def states_at(seen: _Seen, *, now_s: int, settings: LifecycleSettings) -> States:
    """The branches of `lifecycle.state_at`, in its order. [users]"""
    idle_s, age_s, back_s = now_s - seen.last_s, now_s - seen.first_s, now_s - seen.returned_s
    branches = (
        (seen.first_s == NEVER, UNSEEN),
        (idle_s >= settings.dormant_after_days * DAY_S, STATES.index(Lifecycle.DORMANT)),
        (idle_s >= settings.at_risk_after_days * DAY_S, STATES.index(Lifecycle.AT_RISK)),
        (age_s < settings.new_days * DAY_S, STATES.index(Lifecycle.NEW)),
        (back_s < settings.resurrected_days * DAY_S, STATES.index(Lifecycle.RESURRECTED)),
        (seen.visits >= settings.active_min_visits_28d, STATES.index(Lifecycle.ACTIVE)),
    )
    casual = np.int8(STATES.index(Lifecycle.CASUAL))
    return np.select([when for when, _ in branches], [np.int8(code) for _, code in branches], casual)


@dataclass(frozen=True, kw_only=True)
class History:
    """What the days add up to."""

    days: Integers  # [days]
    counts: Integers  # users at each day's end [days, states]
    moves: Integers  # from one day's end to the next, the last row from unseen [states + 1, states]
    spells: Integers  # stays that ended, by length in days [states, days + 1]
    ongoing: Integers  # stays that had not ended, likewise [states, days + 1]


def history_of(visits: UserDays, settings: LifecycleSettings) -> History:
    """One pass; memory of users and days, never of both multiplied."""
    states, span = len(STATES), int(visits.day[-1] - visits.day[0]) + 1
    before = np.full(visits.users, UNSEEN, np.int8)
    entered = np.zeros(visits.users, np.int64)
    counts, moves = np.zeros((span, states), np.int64), np.zeros((states + 1, states), np.int64)
    spells, ongoing = np.zeros((states, span + 1), np.int64), np.zeros((states, span + 1), np.int64)
    for place, day in enumerate(days_of(visits, settings)):
        known = np.flatnonzero(day.state != UNSEEN)
        old, new = before[known], day.state[known]
        np.add.at(moves, (np.where(old == UNSEEN, states, old), new), 1)
        counts[place] = np.bincount(new, minlength=states)
        changed = known[old != new]
        left = changed[before[changed] != UNSEEN]
        np.add.at(spells, (before[left], place - entered[left]), 1)
        entered[changed] = place
        before = day.state
    known = np.flatnonzero(before != UNSEEN)
    np.add.at(ongoing, (before[known], span - entered[known]), 1)
    return History(
        days=np.arange(span) + int(visits.day[0]), counts=counts, moves=moves, spells=spells, ongoing=ongoing
    )


def median_stay_days(ended: Integers, ongoing: Integers) -> float | None:
    """Kaplan-Meier: the first length that half of the stays outlast no more; None when over a half still last.

    >>> median_stay_days(np.array([0, 2, 2, 0]), np.array([0, 0, 0, 0]))
    1.0
    """
    at_risk = (ended + ongoing)[::-1].cumsum()[::-1]
    hazard = np.divide(ended, at_risk, out=np.zeros(len(ended)), where=at_risk > 0)
    reached = np.flatnonzero(np.cumprod(1 - hazard) <= 0.5)
    return float(reached[0]) if len(reached) else None
