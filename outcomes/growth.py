"""Growth accounting: who came in a period, against the one before it.

| word | came in this period | in the one before | ever before |
|---|---|---|---|
| new | yes | – | no |
| retained | yes | yes | – |
| resurrected | yes | no | yes |
| churned | no | yes | – |

Quick ratio = (new + resurrected) / churned: above 1 the product grows. (Social Capital, "Diligence at Social Capital
Part 1: Accounting for User Growth", 2015.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outcomes.user_days import UserDays


@dataclass(frozen=True, kw_only=True)
class Period:
    """`first_day` is in days since 1970. `churned` and the ratio are None where there is no period before."""

    first_day: int
    new: int
    retained: int
    resurrected: int
    churned: int | None
    quick_ratio: float | None


def periods_of(visits: UserDays, *, period_days: int) -> list[Period]:
    """Whole periods only, the last ending with the last day of the log."""
    last = int(visits.day[-1])
    number = (last - int(visits.day[0]) + 1) // period_days
    start = last + 1 - number * period_days
    came_before = np.zeros(visits.users, dtype=bool)
    came_before[visits.user[visits.day < start]] = True
    previous: np.ndarray | None = None
    periods = []
    for place in range(number):
        first = start + place * period_days
        came = np.zeros(visits.users, dtype=bool)
        came[visits.user[(visits.day >= first) & (visits.day < first + period_days)]] = True
        periods.append(_period(first, came, previous, came_before))
        came_before |= came
        previous = came
    return periods


def _period(first: int, came: np.ndarray, previous: np.ndarray | None, came_before: np.ndarray) -> Period:
    new = int((came & ~came_before).sum())
    retained = 0 if previous is None else int((came & previous).sum())
    churned = None if previous is None else int((previous & ~came).sum())
    resurrected = int(came.sum()) - new - retained
    ratio = (new + resurrected) / churned if churned else None
    return Period(
        first_day=first, new=new, retained=retained, resurrected=resurrected, churned=churned, quick_ratio=ratio
    )
