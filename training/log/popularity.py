"""What the catalogue's popularity was at a time, from events strictly before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

POPULARITY_FEATURES: Final = ("log_all_time", "log_30d", "log_7d", "log_30d_returning", "log_age_days")
DAY_US: Final = 86_400_000_000
MAX_CELLS: Final = 40_000_000


@dataclass(frozen=True, kw_only=True)
class PopularityTable:
    """Features of every item row at the start of each period; a time reads the period it lies in."""

    starts_us: np.ndarray  # int64 [periods]
    features: np.ndarray  # float32 [periods, rows, P]

    def periods(self, as_of_us: np.ndarray) -> np.ndarray:
        """The period of each time: the last that starts at or before it."""
        return np.maximum(np.searchsorted(self.starts_us, as_of_us, side="right") - 1, 0)


def popularity_at(
    item_rows: np.ndarray, times_us: np.ndarray, is_returning: np.ndarray, *, num_rows: int, as_of_us: int
) -> np.ndarray:
    """Float32 [rows, P] at one time, from the events strictly before it.

    `is_returning` [events] marks events of users who came back: what they take differs from what a first visit takes.

    Counts are taken relative to the mean item, log((count + 1) / (mean + 1)), so that they keep their scale as a log
    grows.
    """
    before = times_us < as_of_us
    rows, times = item_rows[before], times_us[before]
    in_30d, in_7d = (times >= as_of_us - days * DAY_US for days in (30, 7))
    columns = []
    for counted in (rows, rows[in_30d], rows[in_7d], rows[in_30d & is_returning[before]]):
        counts = np.bincount(counted, minlength=num_rows).astype(np.float64)
        columns.append(np.log1p(counts) - np.log1p(counts.sum() / max(1, num_rows)))
    first = np.full(num_rows, as_of_us, np.int64)
    np.minimum.at(first, rows, times)
    columns.append(np.log1p((as_of_us - first) / DAY_US) / 5.0)
    return np.stack(columns, axis=1).astype(np.float32)


def popularity_table(
    item_rows: np.ndarray, times_us: np.ndarray, is_returning: np.ndarray, *, num_rows: int, end_us: int
) -> PopularityTable:
    """One period a day up to `end_us`, or as many as fit in memory; the last starts at `end_us`."""
    start_us = int(times_us.min())
    days = -(-(end_us - start_us) // DAY_US)
    periods = int(max(1, min(days, MAX_CELLS // (num_rows * len(POPULARITY_FEATURES)))))
    starts_us = np.linspace(start_us, end_us, periods + 1).astype(np.int64)
    features = np.stack(
        [popularity_at(item_rows, times_us, is_returning, num_rows=num_rows, as_of_us=int(at)) for at in starts_us]
    )
    return PopularityTable(starts_us=starts_us, features=features)
