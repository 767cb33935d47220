"""Who came back after a decision: one row a user, from the decision log and the visits.

A user counts from their first decision that was not suppressed, for what was then decided (intention to treat): whether
a contact was read, and what was decided later, changes nothing. A return is a visit on a later UTC day: the visit in
which a ranking was asked for is none. A user whose time has not run out when the log ends is left out, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from outcomes.estimate import Integers
from outcomes.user_days import DAY_S, UserDays

BEFORE_DAYS: Final = 28
NEVER: Final = -1
_DAYS: Final = 1 << 20  # more than any day since 1970


@dataclass(frozen=True, kw_only=True)
class Followed:
    """`users`: user_id, state, is_treated, propensity, day, return_day (NEVER), active_days (before), is_due."""

    users: pd.DataFrame
    last_day: int


class Visits:
    """Days with a visit, by user."""

    def __init__(self, visits: UserDays) -> None:
        self._place = {user: place for place, user in enumerate(visits.user_ids)}
        self._keys = np.sort(visits.user * _DAYS + visits.day)
        self.last_day = int(visits.day.max())

    def places(self, user_ids: pd.Series) -> Integers:
        """NEVER for who has no visit."""
        return user_ids.map(self._place).fillna(NEVER).to_numpy(np.int64)

    def count(self, user: Integers, first: Integers, end: Integers) -> Integers:
        """Days with a visit from `first` to before `end`, of each."""
        return np.where(user < 0, 0, self._at(user, end) - self._at(user, first))

    def next_after(self, user: Integers, day: Integers) -> Integers:
        """The first day with a visit after this one, or NEVER."""
        at = self._at(user, day + 1)
        found = self._keys[np.minimum(at, len(self._keys) - 1)]
        has = (user >= 0) & (at < len(self._keys)) & (found // _DAYS == user)
        return np.where(has, found % _DAYS, NEVER)

    def _at(self, user: Integers, day: Integers) -> Integers:
        return np.searchsorted(self._keys, user * _DAYS + np.maximum(day, 0))


def follow(decisions: pd.DataFrame, visits: Visits, *, window_days: int) -> Followed:
    """`decisions` as `outcomes.decisions` has them, with is_treated and propensity, of those that are compared."""
    named = decisions[(decisions["decision"] != "suppressed") & (decisions["user_id"] != "")]
    first = named.sort_values("at_unix_s", kind="stable").drop_duplicates("user_id").reset_index(drop=True)
    day = (first["at_unix_s"].to_numpy(np.float64) // DAY_S).astype(np.int64)
    user = visits.places(first["user_id"])
    users = pd.DataFrame(
        {
            "user_id": first["user_id"],
            "state": first["state"],
            "is_treated": first["is_treated"].astype(bool),
            "propensity": first["propensity"].astype(np.float64),
            "day": day,
            "return_day": visits.next_after(user, day),
            "active_days": visits.count(user, day - BEFORE_DAYS, day),
            "is_due": day + window_days <= visits.last_day,
        }
    )
    return Followed(users=users, last_day=visits.last_day)


def returned(users: pd.DataFrame, *, window_days: int) -> np.ndarray:
    """Float [users]: 1 for who came back within the window."""
    delay = users["return_day"] - users["day"]
    return ((users["return_day"] != NEVER) & (delay <= window_days)).to_numpy(np.float64)


def not_yet_back(users: pd.DataFrame, *, last_day: int, days: int) -> list[float]:
    """Share not back after 0, 1, … `days` days, by Kaplan and Meier: who is still away at the end counts so long."""
    is_back = (users["return_day"] != NEVER).to_numpy()
    length = np.where(is_back, users["return_day"] - users["day"], last_day - users["day"])
    shares, share = [1.0], 1.0
    for day in range(1, days + 1):
        at_risk = int((length >= day).sum())
        came = int((is_back & (length == day)).sum())
        share *= 1 - came / at_risk if at_risk else 1.0
        shares.append(share)
    return shares


def came_again(users: pd.DataFrame, visits: Visits, *, within_days: int) -> float | None:
    """Of those who came back, and long enough ago to tell, the share who had another visit within so many days."""
    back = users[(users["return_day"] != NEVER) & (users["return_day"] + within_days <= visits.last_day)]
    if back.empty:
        return None
    again = visits.next_after(visits.places(back["user_id"]), back["return_day"].to_numpy(np.int64))
    within = (again != NEVER) & (again - back["return_day"].to_numpy(np.int64) <= within_days)
    return float(within.mean())
