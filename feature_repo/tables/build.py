"""Raw events → the offline feature tables, `<view>.parquet`, all of one moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.contract import (
    ITEM_NEIGHBORS,
    ITEM_STATS,
    USER_ACTIVITY,
    USER_BEHAVIOR,
    USER_CONTACTS,
    View,
)
from feature_repo.drafts import draft
from feature_repo.events import CONTACT_TYPES, EXPOSURE
from feature_repo.layout import StateDir
from feature_repo.locks import exclusive
from feature_repo.log.event_log import EventLog
from feature_repo.settings import FeatureSettings
from feature_repo.tables import bgnbd, contacts, facts, neighbors, views
from feature_repo.tables.engine import EVENT_TIMESTAMP, Engine, duckdb_engine
from feature_repo.tables.expressions import moment
from feature_repo.tables.views import Past
from feature_repo.tables.watermark import Inputs, Watermark, prints_of
from feature_repo.tabular import DataError, Report, silent

P_ALIVE_HORIZON_DAYS: Final = 30.0
BUILT: Final = (USER_BEHAVIOR, USER_ACTIVITY, USER_CONTACTS, ITEM_STATS, ITEM_NEIGHBORS)

__all__ = ["BUILT", "EVENT_TIMESTAMP", "BuildSummary", "build", "offline_file"]

Produced = Iterable[tuple[View, ibis.Table]]


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What a build wrote: rows by view, users by lifecycle state.

    An incremental build tells of how many users it read the events, or why it was a full one.
    """

    as_of: datetime
    rows: Mapping[str, int]
    states: Mapping[str, int]
    changed_users: int | None = None
    full_because: str = ""


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

    Raises DataError while another build is at work.
    """
    with one_build(state), EventLog(state.events).frozen() as (segments, end):
        inputs = Inputs.of(state, settings, end)
        with duckdb_engine(state, settings, report, segments) as engine:
            summary = build_with(engine, state, settings, as_of=as_of.replace(microsecond=0), wanted=wanted)
        leave_watermark(state, inputs, summary.as_of, wanted)
        return summary


def build_with(
    engine: Engine, state: StateDir, settings: FeatureSettings, *, as_of: datetime, wanted: tuple[View, ...] = BUILT
) -> BuildSummary:
    """The same on an engine of the caller's."""
    events, items = engine.events(as_of), engine.items()
    if engine.fetch(events.agg(events=events.count()))["events"][0].as_py() == 0:
        raise no_event(engine.first_event(), state, as_of)
    replace_tables(engine, state, tables(engine, events, items, as_of=as_of, settings=settings, wanted=wanted))
    return summarize(state, as_of, wanted)


def one_build(state: StateDir) -> AbstractContextManager[None]:
    """Refuses a second build, or an erasure beside a build, in this state directory."""

    def busy(process: str) -> DataError:
        return DataError(f"another build of features is at work (process {process}); wait for it to end")

    return exclusive(state.features / ".build" / "lock", busy)


def replace_tables(engine: Engine, state: StateDir, produced: Produced) -> None:
    """Writes tables, and puts them in the place of those that are there once all are written."""
    with ExitStack() as all_written:
        for view, table in produced:
            engine.write(view, table, all_written.enter_context(draft(offline_file(state, view))))


def leave_watermark(state: StateDir, inputs: Inputs, as_of: datetime, wanted: tuple[View, ...] = BUILT) -> None:
    """For the next incremental build; a build of some views is none to go on from."""
    if wanted == BUILT:
        files = [offline_file(state, view) for view in (*BUILT, facts.ITEM_FACTS)]
        Watermark(as_of=as_of, inputs=inputs, tables=prints_of(files, state.features)).write(state)


def summarize(state: StateDir, as_of: datetime, wanted: tuple[View, ...]) -> BuildSummary:
    """Of the tables that are there."""
    return BuildSummary(
        as_of=as_of,
        rows={view.name: pq.read_metadata(offline_file(state, view)).num_rows for view in wanted},
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
    """The wanted views of all users and items at `as_of`, from `events`, all before it.

    Shared facts are made once. What a view no longer needs is dropped once the view was taken.
    """
    spine = engine.keep("spine", events.select("user_id").distinct().mutate(as_of=moment(as_of)))
    if USER_BEHAVIOR in wanted:
        yield USER_BEHAVIOR, behavior(engine, events, items, spine, as_of)
        engine.drop("recent", "category_weights")
    if USER_ACTIVITY in wanted:
        known = summaries(engine, events, as_of, settings)
        yield USER_ACTIVITY, activity(engine, views.user_activity_rows(known, spine, settings))
        engine.drop("days", "activity")
    if all(view in (USER_BEHAVIOR, USER_ACTIVITY) for view in wanted):
        return
    pairs = engine.keep("pairs", facts.pairs(events))
    if USER_CONTACTS in wanted:
        yield USER_CONTACTS, contacted(events, pairs, spine, as_of)
    if ITEM_STATS in wanted:
        known = engine.keep("item_facts", facts.items(pairs, events, as_of))
        yield facts.ITEM_FACTS, known.mutate(as_of=moment(as_of))
        yield ITEM_STATS, views.item_stats_rows(known, items, as_of)
    if ITEM_NEIGHBORS in wanted:
        yield ITEM_NEIGHBORS, neighbors.item_neighbors_rows(pairs, items, as_of, settings)


def behavior(engine: Engine, events: ibis.Table, items: ibis.Table, spine: ibis.Table, as_of: datetime) -> ibis.Table:
    """The view `user_behavior` of the spine's users."""
    past = Past(rows=engine.keep("engagements", facts.engagements(events)), as_of=as_of)
    last = Past(rows=engine.keep("recent", views.recent(past)), as_of=as_of)
    weights = engine.keep("category_weights", views.category_weights(past, items))
    engine.drop("engagements")
    return views.user_behavior_rows(last, weights, spine)


def contacted(events: ibis.Table, pairs: ibis.Table, spine: ibis.Table, as_of: datetime) -> ibis.Table:
    """The view `user_contacts` of the spine's users."""
    shown = events.filter(events.event_type.isin((EXPOSURE, *CONTACT_TYPES)))
    engaged = pairs.filter(pairs.engaged_us.notnull())
    return contacts.user_contacts_rows(Past(rows=shown, as_of=as_of), engaged, spine)


def summaries(engine: Engine, events: ibis.Table, as_of: datetime, settings: FeatureSettings) -> ibis.Table:
    """Each user's days in one row."""
    days = facts.with_returns(engine.keep("days", facts.days(events)), settings.lifecycle)
    return views.summarize(Past(rows=days, as_of=as_of))


def activity(engine: Engine, rows: ibis.Table) -> ibis.Table:
    """The view `user_activity` from `views.user_activity_rows` of all users.

    Adds p_alive and expected_events_30d. Users of equal (x, t_x, T) are fitted and computed once.
    """
    rows = engine.keep("activity", rows)
    day = rows.as_of.delta(ibis.timestamp("1970-01-01T00:00:00+00:00"), unit="second") // facts.DAY
    first = rows.first_seen_unix_s // facts.DAY
    keyed = rows.mutate(
        x=rows.active_days - 1, t_x=rows.last_seen_unix_s // facts.DAY - first, age=day.cast("int64") - first
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


def no_event(first: datetime | None, state: StateDir, as_of: datetime) -> DataError:
    """Says how to have one."""
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
