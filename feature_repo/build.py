"""Raw events → the offline feature tables, `<view>.parquet`, all of one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo import bgnbd, contacts, facts, neighbors, views
from feature_repo.contract import (
    ITEM_NEIGHBORS,
    ITEM_STATS,
    USER_ACTIVITY,
    USER_BEHAVIOR,
    USER_CONTACTS,
    View,
)
from feature_repo.engine import EVENT_TIMESTAMP, Engine, duckdb_engine
from feature_repo.events import CONTACT_TYPES, EXPOSURE
from feature_repo.expressions import moment
from feature_repo.layout import StateDir
from feature_repo.settings import FeatureSettings
from feature_repo.tabular import DataError, Report, silent
from feature_repo.views import Past

P_ALIVE_HORIZON_DAYS: Final = 30.0
BUILT: Final = (USER_BEHAVIOR, USER_ACTIVITY, USER_CONTACTS, ITEM_STATS, ITEM_NEIGHBORS)

__all__ = ["BUILT", "EVENT_TIMESTAMP", "BuildSummary", "build", "offline_file"]


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What a build wrote: rows by view, users by lifecycle state."""

    as_of: datetime
    rows: Mapping[str, int]
    states: Mapping[str, int]


def offline_file(state: StateDir, view: View) -> Path:
    """Where a view's offline table lies."""
    return state.features / f"{view.name}.parquet"


def build(
    state: StateDir,
    settings: FeatureSettings,
    *,
    as_of: datetime,
    wanted: tuple[View, ...] = BUILT,
    report: Report = silent,
) -> BuildSummary:
    """Computes every view at `as_of` from the events before it, and replaces the files once all are there.

    `as_of` is cut to the second, which is what the online store keeps of it.
    """
    with duckdb_engine(state, settings, report) as engine:
        return build_with(engine, state, settings, as_of=as_of.replace(microsecond=0), wanted=wanted)


def build_with(
    engine: Engine, state: StateDir, settings: FeatureSettings, *, as_of: datetime, wanted: tuple[View, ...] = BUILT
) -> BuildSummary:
    """The same on an engine of the caller's."""
    events, items = engine.events(as_of), engine.items()
    if engine.fetch(events.agg(events=events.count()))["events"][0].as_py() == 0:
        raise _no_event(engine.first_event(), state, as_of)
    unfinished = []
    for view, table in tables(engine, events, items, as_of=as_of, settings=settings, wanted=wanted):
        file = offline_file(state, view)
        unfinished.append((view, file.with_name(f".{file.name}.unfinished")))
        engine.write(view, table, unfinished[-1][1])
    for view, file in unfinished:
        file.replace(offline_file(state, view))
    return BuildSummary(
        as_of=as_of,
        rows={view.name: pq.read_metadata(offline_file(state, view)).num_rows for view, _ in unfinished},
        states=_states(offline_file(state, USER_ACTIVITY)),
    )


def tables(
    engine: Engine,
    events: ibis.Table,
    items: ibis.Table,
    *,
    as_of: datetime,
    settings: FeatureSettings,
    wanted: tuple[View, ...],
) -> Iterator[tuple[View, ibis.Table]]:
    """The wanted views of all users and items at `as_of`, from `events`, all before it. Shared facts are made once."""
    spine = engine.keep("spine", events.select("user_id").distinct().mutate(as_of=moment(as_of)))
    engagements = engine.keep("engagements", facts.engagements(events))
    pairs = engine.keep("pairs", facts.pairs(events))
    if USER_BEHAVIOR in wanted:
        past = Past(rows=engagements, as_of=as_of)
        last = Past(rows=engine.keep("recent", views.recent(past)), as_of=as_of)
        weights = engine.keep("category_weights", views.category_weights(past, items))
        yield USER_BEHAVIOR, views.user_behavior_rows(last, weights, spine)
    if USER_ACTIVITY in wanted:
        days = facts.with_returns(engine.keep("days", facts.days(events)), settings.lifecycle)
        rows = views.user_activity_rows(Past(rows=days, as_of=as_of), spine, settings)
        yield USER_ACTIVITY, with_bgnbd(engine, engine.keep("activity", rows))
    if USER_CONTACTS in wanted:
        shown = events.filter(events.event_type.isin((EXPOSURE, *CONTACT_TYPES)))
        engaged = pairs.filter(pairs.engaged_us.notnull())
        yield USER_CONTACTS, contacts.user_contacts_rows(Past(rows=shown, as_of=as_of), engaged, spine)
    if ITEM_STATS in wanted:
        engaged = events.filter(events.weight > 0)
        yield ITEM_STATS, views.item_stats_rows(pairs, engaged, items, as_of)
    if ITEM_NEIGHBORS in wanted:
        yield ITEM_NEIGHBORS, neighbors.item_neighbors_rows(pairs, items, as_of, settings)


def with_bgnbd(engine: Engine, activity: ibis.Table) -> ibis.Table:
    """Adds p_alive and expected_events_30d. Users of equal (x, t_x, T) are fitted and computed once."""
    day = activity.as_of.delta(ibis.timestamp("1970-01-01T00:00:00+00:00"), unit="second") // facts.DAY
    first = activity.first_seen_unix_s // facts.DAY
    keyed = activity.mutate(
        x=activity.active_days - 1, t_x=activity.last_seen_unix_s // facts.DAY - first, age=day.cast("int64") - first
    )
    group = ["x", "t_x", "age"]
    groups = keyed.filter(keyed.active_days > 0).group_by(group).agg(users=lambda t: t.count())
    known = engine.fetch(groups.order_by(group))  # in order, so that the fit adds in order
    x, t_x, age, users = (known[name].to_numpy().astype(np.float64) for name in (*group, "users"))
    model = bgnbd.fit(x, t_x, age, users)
    missing = np.full(len(x), np.nan)
    p_alive = missing if model is None else model.p_alive(x, t_x, age)
    expected = missing if model is None else model.expected_visits(P_ALIVE_HORIZON_DAYS, x, t_x, age)
    columns = {
        **{name: known[name].cast(pa.int64()) for name in group},
        "p_alive": pa.array(p_alive, pa.float64(), from_pandas=True),  # NaN is null
        "expected_events_30d": pa.array(expected, pa.float64(), from_pandas=True),
    }
    predicted = engine.put("predicted", pa.table(columns))
    return keyed.left_join(predicted, group)


def _no_event(first: datetime | None, state: StateDir, as_of: datetime) -> DataError:
    if first is None:
        return DataError(
            f"the event log in {state.events} is empty; fill it with "
            "`longtail data fetch ml-100k` or `longtail data import FILE --map ...`"
        )
    return DataError(f"no event is before --as-of {as_of.isoformat()}; the first is of {first.isoformat()}")


def _states(file: Path) -> dict[str, int]:
    if not file.exists():
        return {}
    counted = pq.read_table(file, columns=["state"])["state"].value_counts().to_pylist()
    return {row["values"]: row["counts"] for row in sorted(counted, key=lambda row: -row["counts"])}
