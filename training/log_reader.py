"""Reads the event log for training: engagements as arrays, and the users' activity at any moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from feature_repo import views
from feature_repo.event_log import EventLog
from feature_repo.settings import FeatureSettings
from feature_repo.transforms import USER_FEATURE_COLUMNS, user_features
from training.engagements import Engagements, from_frame

if TYPE_CHECKING:
    import ibis


@dataclass(frozen=True, kw_only=True)
class UserColumns:
    """What `user_activity` says of users at moments."""

    features: np.ndarray  # float32 [moments, F], the model's input; NaN where missing
    state: np.ndarray  # str [moments], the lifecycle state


@dataclass(frozen=True, kw_only=True)
class LogReader:
    """One event log in one DuckDB connection."""

    con: Any
    events: ibis.Table
    settings: FeatureSettings

    def engagements(self) -> Engagements:
        """Every event of positive weight; the same user, item, type and second counts once, as in the views."""
        columns = ["user_id", "item_id", "event_type", "event_time"]
        frame = self.con.to_pyarrow(self.events.select(*columns)).to_pandas()
        weight = frame["event_type"].map(self.settings.weight)
        frame = frame[weight > 0].sort_values("event_time", kind="stable")
        second = frame["event_time"].dt.floor("s")
        return from_frame(frame[~frame.assign(event_time=second).duplicated()])

    def user_columns(self, user_ids: np.ndarray, as_of_us: np.ndarray) -> UserColumns:
        """Features and state of each user at each moment, from events strictly before it."""
        import ibis

        frame = pd.DataFrame({"user_id": user_ids.astype(str), "as_of": pd.to_datetime(as_of_us, unit="us", utc=True)})
        spine = ibis.memtable(frame.drop_duplicates(), schema={"user_id": "string", "as_of": "timestamp('UTC', 6)"})
        rows = self.con.to_pyarrow(views.user_activity(self.events, spine, self.settings)).to_pandas()
        rows["as_of"] = rows["as_of"].astype(frame["as_of"].dtype)
        rows = frame.merge(rows, on=["user_id", "as_of"], how="left", validate="many_to_one")
        columns = {name: rows[name].to_numpy(np.float64, na_value=np.nan) for name in USER_FEATURE_COLUMNS}
        return UserColumns(
            features=user_features(columns, now_unix_s=as_of_us / 1e6), state=rows["state"].to_numpy(dtype=object)
        )


def open_log(directory: Path, settings: FeatureSettings) -> LogReader:
    """A reader of the event log in `directory`."""
    import ibis

    con = ibis.duckdb.connect()
    events = con.create_table("events_for_training", EventLog(directory).table(con), temp=True)
    return LogReader(con=con, events=events, settings=settings)
