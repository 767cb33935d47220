"""The event log as visits: which user came on which UTC day, and when. Read by DuckDB, then plain arrays."""

# ruff: noqa: S608  the names in the SQL are constants
from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import ibis
import numpy as np
import numpy.typing as npt

from feature_repo.events import NOT_ACTIVITY
from feature_repo.log.event_log import EventLog
from outcomes.errors import OutcomeError
from outcomes.estimate import Integers

DAY_S: Final = 86_400
EPOCH: Final = date(1970, 1, 1)


@dataclass(frozen=True, kw_only=True)
class UserDays:
    """One row a user and day with a visit, by day; users are 0, 1, … in the order of `user_ids`. All [visits]."""

    user_ids: npt.NDArray[np.object_]  # [users]
    user: Integers
    day: Integers  # since 1970
    first_s: Integers  # the first event of the day, s since 1970
    last_s: Integers
    before_s: Integers  # the last event before the day; −1 for none

    @property
    def users(self) -> int:
        return len(self.user_ids)


def read_user_days(directory: Path) -> UserDays:
    """Raises OutcomeError for a log without a visit."""
    con = ibis.duckdb.connect()
    try:
        con.raw_sql("SET TimeZone = 'UTC'")
        events = EventLog(directory).table(con)
        acts = events.filter(~events.event_type.isin(NOT_ACTIVITY))
        rows = con.raw_sql(
            f"""
            WITH acts AS (SELECT user_id, CAST(floor(epoch(event_time)) AS BIGINT) AS s FROM ({ibis.to_sql(acts)})),
            days AS (SELECT user_id, s // {DAY_S} AS day, min(s) AS first_s, max(s) AS last_s FROM acts GROUP BY ALL)
            SELECT *, coalesce(lag(last_s) OVER (PARTITION BY user_id ORDER BY day), -1) AS before_s
            FROM days ORDER BY day, user_id
            """
        ).fetchnumpy()
    finally:
        con.disconnect()
    if not len(rows["day"]):
        raise OutcomeError(f"the event log in {directory} has no visit; fill it with `longtail data import`")
    user_ids, user = np.unique(np.asarray(rows["user_id"], dtype=object), return_inverse=True)
    plain = {name: np.asarray(rows[name], np.int64) for name in ("day", "first_s", "last_s", "before_s")}
    return UserDays(user_ids=user_ids, user=user.astype(np.int64), **plain)


def as_date(day: int) -> date:
    return EPOCH + timedelta(days=int(day))


def as_day(moment: date) -> int:
    return (moment - EPOCH).days
