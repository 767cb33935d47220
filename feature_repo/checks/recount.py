"""What the event log says of some users: streamed columns at any moments, a build's columns at the build's moment.

The first are of the log as it is now, by the expressions that training sets and training use. The others are of the log
as the last build read it, by the build's own: P(alive) and percentiles of everyone move with every late event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
from ibis import _

from feature_repo.checks.skew_tally import Cells
from feature_repo.contract import ITEM_STATS, USER_ACTIVITY, USER_BEHAVIOR, USER_CONTACTS, View
from feature_repo.drafts import scratch_folder
from feature_repo.events import EPOCH
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.online.streamed import built_features, streamed_features
from feature_repo.settings import FeatureSettings
from feature_repo.tables import build, views
from feature_repo.tables.engine import EVENT_TIMESTAMP, DuckDb, duckdb_engine
from feature_repo.tables.point_in_time import own_tables, spine_of
from feature_repo.tables.watermark import Inputs, Watermark
from feature_repo.tabular import DataError, Report

RECOUNTED: Final = (USER_BEHAVIOR, USER_ACTIVITY, USER_CONTACTS)
BUILT_ONLY: Final = (USER_BEHAVIOR, USER_ACTIVITY)  # have columns that no event changes

Key = tuple[str, str, datetime]  # view, user or item, moment


@dataclass(frozen=True, kw_only=True)
class Recount:
    """The streamed columns at moments, and when each user or item first came."""

    rows: Mapping[Key, Cells]
    first_seen: Mapping[str, datetime]

    def row(self, view: View, entity_id: str, at: datetime) -> Cells | None:
        """None before the first event, of whatever type: then a build has no row either."""
        first = self.first_seen.get(entity_id)
        return self.rows[view.name, entity_id, at] if first is not None and first < at else None


@dataclass(frozen=True, kw_only=True)
class BuildRecount:
    """The build's columns at its moment; without one, `obstacle` says why it cannot be told."""

    as_of: datetime | None = None
    rows: Mapping[Key, Cells] = field(default_factory=dict)
    obstacle: str = ""


def sampled(state: StateDir, key: str, count: int) -> list[str]:
    """Users or items of the log in the order of a hash. Raises DataError when the log is empty."""
    rows = EventLog(state.events).rows(ibis.duckdb.connect())
    every = rows.select(id=rows[key]).filter(_.id != "").distinct()
    found: list[str] = every.order_by([every.id.hash(), every.id]).limit(count).to_pyarrow()[0].to_pylist()
    if not found and key == "user_id":
        raise DataError(
            f"the event log in {state.events} is empty; fill it with `longtail data fetch ml-100k` or "
            "`longtail data import FILE --map ...`"
        )
    return found


def recount(
    state: StateDir, settings: FeatureSettings, asked: Sequence[tuple[str, datetime]], report: Report
) -> Recount:
    """Of each user at each moment, from the events strictly before it."""
    with (
        scratch_folder(state.features) as folder,
        EventLog(state.events).frozen() as (segments, _),
        duckdb_engine(state, settings, report, segments) as engine,
    ):
        events = engine.events(max(at for _, at in asked))
        spine = engine.put("asked_users", spine_of("user_id", asked))
        theirs = engine.keep("their_events", events.semi_join(spine, "user_id"))
        rows: dict[Key, Cells] = {}
        for view, table in own_tables(theirs, engine.items(), spine, settings, RECOUNTED):
            rows |= _rows(engine, replace(view, features=streamed_features(view)), table, folder)
        first = engine.fetch(theirs.group_by("user_id").agg(first_us=theirs.event_us.min()))
        times = [EPOCH + timedelta(microseconds=each) for each in first["first_us"].to_pylist()]
        return Recount(rows=rows, first_seen=dict(zip(first["user_id"].to_pylist(), times, strict=True)))


def recount_items(
    state: StateDir, settings: FeatureSettings, asked: Sequence[tuple[str, datetime]], report: Report
) -> Recount:
    """Of each item at each moment, from the events strictly before it. The catalogue's items were always there."""
    with (
        scratch_folder(state.features) as folder,
        EventLog(state.events).frozen() as (segments, _end),
        duckdb_engine(state, settings, report, segments) as engine,
    ):
        events, items = engine.events(max((at for _item, at in asked), default=EPOCH)), engine.items()
        spine = engine.put("asked_items", spine_of("item_id", asked))
        only = replace(ITEM_STATS, features=streamed_features(ITEM_STATS))
        rows = _rows(engine, only, views.item_counts(events, spine), folder)
        first = engine.fetch(events.semi_join(spine, "item_id").group_by("item_id").agg(first_us=_.event_us.min()))
        times = [EPOCH + timedelta(microseconds=each) for each in first["first_us"].to_pylist()]
        listed = engine.fetch(items.semi_join(spine, "item_id").select("item_id"))["item_id"].to_pylist()
        first_seen = dict(zip(first["item_id"].to_pylist(), times, strict=True)) | dict.fromkeys(listed, EPOCH)
        return Recount(rows=rows, first_seen=first_seen)


def recount_build(
    state: StateDir,
    settings: FeatureSettings,
    ids: Sequence[str],
    *,
    wanted: tuple[View, ...],
    loaded: set[datetime],
    report: Report,
) -> BuildRecount:
    """Views of one entity, of the last build, when its tables are those `loaded`."""
    mark = Watermark.read(state)
    if mark is None:
        return BuildRecount(obstacle="no full build on DuckDB left a watermark")
    if loaded != {mark.as_of}:
        return BuildRecount(obstacle=f"the tables of {mark.as_of:%Y-%m-%d %H:%M:%S} UTC are not those loaded last")
    log = EventLog(state.events)
    with log.frozen_around(mark.inputs.end) as (segments, _, end):
        if changed := Inputs.of(state, settings, end).since(mark.inputs):
            return BuildRecount(obstacle=f"{changed} since the last build")
        imports = [file for file in log.import_files() if file.name in mark.inputs.imports]
        with scratch_folder(state.features) as folder, duckdb_engine(state, settings, report) as engine:
            events = engine.encode(log.table(engine.con, segments=segments, imports=imports), mark.as_of)
            key = wanted[0].entity
            asked = engine.put("asked_ids", pa.table({key: pa.array(ids, pa.string())}))
            rows: dict[Key, Cells] = {}
            for view, table in build.tables(
                engine, events, engine.items(), as_of=mark.as_of, settings=settings, wanted=wanted
            ):
                if view in wanted:
                    only = replace(view, features=built_features(view))
                    rows |= _rows(engine, only, table.semi_join(asked, key), folder)
            return BuildRecount(as_of=mark.as_of, rows=rows)


def _rows(engine: DuckDb, view: View, table: ibis.Table, folder: Path) -> dict[Key, Cells]:
    """The table as a build writes it, in the contract's types."""
    file = folder / f"{view.name}.parquet"
    engine.write(view, table, file)
    names = view.feature_names()
    return {
        (view.name, row[view.entity], row[EVENT_TIMESTAMP].astimezone(UTC)): {name: row[name] for name in names}
        for row in pq.read_table(file).to_pylist()
    }
