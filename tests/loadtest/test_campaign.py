"""The crowd is what the benchmark says it is, and a missed limit is told."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from loadtest.campaign import AWAY_DAYS, VISITS, Chosen, report, write_crowd
from loadtest.compare.caller import Measured

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_the_crowd_stopped_coming(tmp_path: Path) -> None:
    write_crowd(tmp_path / "crowd.parquet", 500, now=NOW)
    rows = pq.read_table(tmp_path / "crowd.parquet")
    assert len(rows) == 500 * VISITS
    assert pc.count_distinct(rows["user"]).as_py() == 500
    assert pc.max(rows["at"]).as_py() <= NOW - timedelta(days=AWAY_DAYS[0])


@pytest.mark.parametrize(
    ("p99_ms", "seconds", "error", "lost", "holds"),
    [
        (14.0, 300, "", 0, True),
        (16.0, 300, "", 0, False),
        (14.0, 601, "", 0, False),
        (14.0, 300, "UNAVAILABLE", 0, False),
        (14.0, 300, "", 1, False),
    ],
)
def test_each_limit_counts(p99_ms: float, seconds: float, error: str, lost: int, holds: bool) -> None:
    chosen = Chosen(decisions=Counter(show=9, hold_out=1), seconds=seconds, error=error)
    during = Measured(p99_ms=p99_ms, errors={"UNAVAILABLE": lost})
    assert report([Measured(p99_ms=10.0)], [during], chosen, 10) is holds
