"""Raw events → the offline feature tables, `<view>.parquet`, all of one moment."""

# ruff: noqa: S608  every name and text in the SQL goes through tabular.quoted and tabular.literal

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import duckdb
import ibis
import numpy as np
import pyarrow as pa
from ibis.backends.duckdb import Backend

from feature_repo import bgnbd, contacts, neighbors, views
from feature_repo.catalogue import catalogue_table
from feature_repo.contract import (
    ITEM_NEIGHBORS,
    ITEM_STATS,
    USER_ACTIVITY,
    USER_BEHAVIOR,
    USER_CONTACTS,
    Dtype,
    View,
)
from feature_repo.event_log import EventLog
from feature_repo.layout import StateDir
from feature_repo.settings import FeatureSettings
from feature_repo.tabular import DataError, Report, literal, run, scratch_database, silent

EVENT_TIMESTAMP: Final = "event_timestamp"
P_ALIVE_HORIZON_DAYS: Final = 30.0

_IBIS_TYPES: Final = {
    Dtype.STRING: "string",
    Dtype.INT64: "int64",
    Dtype.FLOAT32: "float32",
    Dtype.BOOL: "boolean",
    Dtype.STRINGS: "array<string>",
    Dtype.INT64S: "array<int64>",
    Dtype.FLOAT32S: "array<float32>",
}


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What a build wrote: rows by view, users by lifecycle state."""

    as_of: datetime
    rows: Mapping[str, int]
    states: Mapping[str, int]


def offline_file(state: StateDir, view: View) -> Path:
    """Where a view's offline table lies."""
    return state.features / f"{view.name}.parquet"


def build(state: StateDir, settings: FeatureSettings, *, as_of: datetime, report: Report = silent) -> BuildSummary:
    """Computes every view at `as_of` from the events before it, and replaces the files once all are there.

    `as_of` is cut to the second, which is what the online store keeps of it.
    """
    as_of = as_of.replace(microsecond=0)
    with scratch_database(state.features) as raw:
        con = ibis.duckdb.from_connection(raw)
        _load(con, raw, state, as_of, report)
        events, items = con.table("events"), con.table("items")
        spine = con.create_table("spine", views.spine_of_all(events, as_of))
        activity = con.create_table("activity", views.user_activity(events, spine, settings))
        tables = (
            (USER_BEHAVIOR, views.user_behavior(events, items, spine, settings)),
            (USER_ACTIVITY, _with_bgnbd(con, activity)),
            (USER_CONTACTS, contacts.user_contacts(events, spine, settings)),
            (ITEM_STATS, views.item_stats(events, items, as_of, settings)),
            (ITEM_NEIGHBORS, neighbors.item_neighbors(events, items, as_of, settings)),
        )
        unfinished = [(view, _write(raw, state, view, table, report)) for view, table in tables]
        for view, file in unfinished:
            file.replace(offline_file(state, view))
        return BuildSummary(
            as_of=as_of,
            rows={view.name: _count(raw, offline_file(state, view)) for view, _ in tables},
            states=dict(raw.execute("SELECT state, count(*) FROM activity GROUP BY 1 ORDER BY 2 DESC").fetchall()),
        )


def _load(con: Backend, raw: duckdb.DuckDBPyConnection, state: StateDir, as_of: datetime, report: Report) -> None:
    """The tables `events` (before `as_of`) and `items`, once, because every view scans them."""
    try:
        events = EventLog(state.events).table(con)
        run(
            raw,
            f"CREATE TABLE events AS {ibis.to_sql(events, dialect='duckdb')}",
            {},
            step="read events",
            report=report,
        )
        con.create_table("items", catalogue_table(state, con))
        ((first,),) = raw.execute("SELECT min(event_time) FROM events").fetchall()
    except duckdb.Error as error:
        raise DataError(f"cannot read the events in {state.events} or the items in {state.items}: {error}") from error
    if first is None:
        raise DataError(
            f"the event log in {state.events} is empty; fill it with "
            "`longtail data fetch ml-100k` or `longtail data import FILE --map ...`"
        )
    if first >= as_of:
        raise DataError(f"no event is before --as-of {as_of.isoformat()}; the first is of {first.isoformat()}")


def _with_bgnbd(con: Backend, activity: ibis.Table) -> ibis.Table:
    """Adds p_alive and expected_events_30d. Users of equal (x, t_x, T) are fitted and computed once."""
    day = activity.as_of.delta(ibis.timestamp("1970-01-01T00:00:00+00:00"), unit="second") // 86_400
    first = activity.first_seen_unix_s // 86_400
    keyed = activity.mutate(
        x=activity.active_days - 1, t_x=activity.last_seen_unix_s // 86_400 - first, age=day.cast("int64") - first
    )
    groups = keyed.filter(keyed.active_days > 0).group_by(["x", "t_x", "age"]).agg(users=lambda t: t.count())
    known = groups.to_pyarrow()
    x, t_x, age, users = (known[name].to_numpy().astype(np.float64) for name in ("x", "t_x", "age", "users"))
    model = bgnbd.fit(x, t_x, age, users)
    missing = np.full(len(x), np.nan)
    p_alive = missing if model is None else model.p_alive(x, t_x, age)
    expected = missing if model is None else model.expected_visits(P_ALIVE_HORIZON_DAYS, x, t_x, age)
    columns = {
        **{name: known[name] for name in ("x", "t_x", "age")},
        "p_alive": pa.array(p_alive, from_pandas=True),  # NaN is null
        "expected_events_30d": pa.array(expected, from_pandas=True),
    }
    predicted = con.create_table("predicted", ibis.memtable(pa.table(columns)))
    return keyed.left_join(predicted, ["x", "t_x", "age"])


def _write(
    raw: duckdb.DuckDBPyConnection,
    state: StateDir,
    view: View,
    table: ibis.Table,
    report: Report,
) -> Path:
    """The view in the contract's columns and types, beside its place."""
    columns = {feature.name: table[feature.name].cast(_IBIS_TYPES[feature.dtype]) for feature in view.features}
    rows = table.select(view.entity, **{EVENT_TIMESTAMP: table.as_of}, **columns).order_by(view.entity)
    file = offline_file(state, view)
    unfinished = file.with_name(f".{file.name}.unfinished")
    sql = ibis.to_sql(rows, dialect="duckdb")
    copy = f"COPY ({sql}) TO {literal(str(unfinished))} (FORMAT parquet, COMPRESSION zstd)"
    run(raw, copy, {}, step=f"build {view.name}", report=report)
    return unfinished


def _count(raw: duckdb.DuckDBPyConnection, file: Path) -> int:
    ((rows,),) = raw.execute(f"SELECT count(*) FROM read_parquet({literal(str(file))})").fetchall()
    return int(rows)
