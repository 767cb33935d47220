"""Reads the event log for training: engagements as arrays, and the users' activity at any moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from feature_repo.log.event_log import EventLog
from feature_repo.log.extent import Extent, frozen
from feature_repo.settings import FeatureSettings
from feature_repo.tables import views
from feature_repo.tables.expressions import microseconds
from feature_repo.transforms import USER_FEATURE_COLUMNS, user_features
from training.log.engagements import Engagements, nothing_to_learn_from

CODED: Final = ("user_id", "item_id", "event_type")
ROWS_AT_ONCE: Final = 1_000_000

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
    extent: Extent  # how much of the log it is

    def engagements(self) -> Engagements:
        """Every event of positive weight; the same user, item, type and second counts once, as in the views.

        Ids become codes in DuckDB, which goes to disk where memory ends, and what comes to Python comes in batches: 20
        bytes an event, and no event's strings.
        """
        kinds = self.con.to_pyarrow(self.events[["event_type"]].distinct())["event_type"].to_pylist()
        engaging = [kind for kind in kinds if self.settings.weight(kind) > 0]
        events = self.events.filter(self.events.event_type.isin(engaging)).mutate(
            time_us=microseconds(self.events.event_time)
        )
        each = events.group_by(*CODED, second=events.time_us // 1_000_000).agg(time_us=events.time_us.min())
        each = self._kept(each)
        count = int(self.con.to_pyarrow(each.count()).as_py())
        if not count:
            raise nothing_to_learn_from()
        coded = {name: self._codes(each, name) for name in CODED}
        for table in coded.values():
            each = each.join(table, table.columns[0])
        codes = {name: f"{name}_code" for name in CODED}
        ordered = each.order_by(  # equal times as the feature views have them
            codes["user_id"], "time_us", each[codes["item_id"]].desc(), codes["event_type"]
        )[[*codes.values(), "time_us"]]
        columns = {name: np.empty(count, np.int32) for name in codes.values()} | {"time_us": np.empty(count, np.int64)}
        filled = 0
        for batch in self.con.con.sql(self.con.compile(ordered)).to_arrow_reader(ROWS_AT_ONCE):
            for name, values in columns.items():
                values[filled : filled + len(batch)] = batch.column(name).to_numpy()
            filled += len(batch)
        return Engagements(
            user_ids=self._ids(coded["user_id"]),
            item_ids=self._ids(coded["item_id"]),
            event_types=self._ids(coded["event_type"]),
            user=columns[codes["user_id"]],
            item=columns[codes["item_id"]],
            event_type=columns[codes["event_type"]],
            time_us=columns["time_us"],
        )

    def _codes(self, events: ibis.Table, name: str) -> ibis.Table:
        """The ids of a column and their places in order."""
        import ibis

        ids = events[[name]].distinct()
        codes = ids.mutate(**{f"{name}_code": ibis.row_number().over(ibis.window(order_by=name)).cast("int32")})
        return self._kept(codes)

    def _kept(self, made: ibis.Table) -> ibis.Table:
        """Computed once."""
        import ibis

        return self.con.create_table(ibis.util.gen_name("training"), made, temp=True)

    def _ids(self, codes: ibis.Table) -> np.ndarray:
        """Each id at its code."""
        name, code = codes.columns
        return np.asarray(self.con.to_pyarrow(codes.order_by(code)[[name]])[name].to_pylist(), dtype=object)

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


def open_log(directory: Path, settings: FeatureSettings, extent: Extent | None = None) -> LogReader:
    """A reader of the event log in `directory`, or of so much of it, within the memory and threads of a build."""
    import ibis

    options = {"memory_limit": settings.build_memory, "threads": settings.build_threads}
    con = ibis.duckdb.connect(**{name: value for name, value in options.items() if value})
    log = EventLog(directory)
    with frozen(log, extent) as kept:
        rows = log.table(con, segments=kept.segments, imports=kept.imports)
        events = con.create_table("events_for_training", rows, temp=True)
    return LogReader(con=con, events=events, settings=settings, extent=kept.extent)
