"""The tables brought from the last build's moment to a later one: equal to a full build, from the events of few users.

Between two builds a row changes when its user has an event that the last build did not have, or one that leaves a
window of days. Those users are computed from all their events. Of the others' rows only what depends on the moment
or on all users is computed anew. An item is a sum over users: what the changed users gave is taken off, and added anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Final

import ibis
import pyarrow.parquet as pq
from ibis import _

from feature_repo.contract import ITEM_NEIGHBORS, ITEM_STATS, USER_ACTIVITY, USER_BEHAVIOR, USER_CONTACTS, View
from feature_repo.layout import StateDir
from feature_repo.log.event_log import COLUMNS, EventLog, one_per_id
from feature_repo.settings import FeatureSettings
from feature_repo.tables import build, facts, views
from feature_repo.tables.engine import IBIS_TYPES, DuckDb, duckdb_engine
from feature_repo.tables.expressions import moment
from feature_repo.tables.watermark import Inputs, Watermark
from feature_repo.tabular import Report, silent

_SUMMARY: Final = ("first_seen_unix_s", "last_seen_unix_s", "returned_unix_s", "events", "active_days")
_VISITS: Final = tuple(f"visits_{days}d" for days in views.VISIT_WINDOWS_DAYS)


class _NotPossibleError(Exception):
    """The tables must be built in full; the text says why."""


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """Files of the event log: those the last build read, and those that came since."""

    old_imports: list[Path]
    new_imports: list[Path]
    old_segments: list[Path]
    new_segments: list[Path]


def build_incremental(
    state: StateDir, settings: FeatureSettings, *, as_of: datetime, report: Report = silent
) -> build.BuildSummary:
    """Brings the tables of the last build up to `as_of`; a full build, which says why, where that cannot be.

    `item_neighbors` is kept while it is younger than `features.neighbors_every_days`, and else computed in full.

    Raises DataError while another build is at work.
    """
    as_of = as_of.replace(microsecond=0)
    mark = Watermark.read(state)
    if mark is None:
        return _in_full(state, settings, as_of, report, "no full build went before")
    log = EventLog(state.events)
    with build.one_build(state), log.frozen_around(mark.inputs.end) as (old_segments, new_segments, end):
        inputs = Inputs.of(state, settings, end)
        reason = mark.obstacle(state, inputs, as_of)
        if not reason:
            imports = log.import_files()
            sources = _Sources(
                old_imports=[file for file in imports if file.name in mark.inputs.imports],
                new_imports=[file for file in imports if file.name not in mark.inputs.imports],
                old_segments=old_segments,
                new_segments=new_segments,
            )
            try:
                with duckdb_engine(state, settings, report) as engine:
                    changed_users = _bring_up(engine, sources, mark.as_of, state, settings, as_of=as_of)
                _renew_neighbors(state, settings, as_of, report)
                build.leave_watermark(state, inputs, as_of)
                return replace(build.summarize(state, as_of, build.BUILT), changed_users=changed_users)
            except _NotPossibleError as why:
                reason = str(why)
    return _in_full(state, settings, as_of, report, reason)


def _in_full(
    state: StateDir, settings: FeatureSettings, as_of: datetime, report: Report, reason: str
) -> build.BuildSummary:
    return replace(build.build(state, settings, as_of=as_of, report=report), full_because=reason)


def _bring_up(
    engine: DuckDb,
    sources: _Sources,
    last_as_of: datetime,
    state: StateDir,
    settings: FeatureSettings,
    *,
    as_of: datetime,
) -> int:
    """The number of users whose events were read. Without news and at the same moment the tables stay."""
    log, changed = _events_of_changed_users(engine, EventLog(state.events), sources, last_as_of, as_of)
    users: int = engine.fetch(changed.agg(users=changed.count()))["users"][0].as_py()
    if users or as_of > last_as_of:
        events, items = engine.encode(log, as_of), engine.items()
        last = _LastBuild(engine=engine, state=state, as_of=last_as_of, changed=changed)
        build.replace_tables(engine, state, _tables(last, events, items, as_of=as_of, settings=settings))
    return users


def _renew_neighbors(state: StateDir, settings: FeatureSettings, as_of: datetime, report: Report) -> None:
    """They depend on everyone at once, and change slowly."""
    file = build.offline_file(state, ITEM_NEIGHBORS)
    made = next(pq.ParquetFile(file).iter_batches(1, columns=[build.EVENT_TIMESTAMP]), None)
    if made is not None and as_of - made.column(0)[0].as_py() < timedelta(days=settings.neighbors_every_days):
        return
    with duckdb_engine(state, settings, report) as engine:
        build.build_with(engine, state, settings, as_of=as_of, wanted=(ITEM_NEIGHBORS,))


def _events_of_changed_users(
    engine: DuckDb, log: EventLog, sources: _Sources, last: datetime, as_of: datetime
) -> tuple[ibis.Table, ibis.Table]:
    """Their events with `is_old`, whether the last build had them; and (user_id,) who they are."""
    con = engine.con
    old = log.rows(con, imports=sources.old_imports, segments=sources.old_segments)
    news = engine.keep("news", log.table(con, imports=sources.new_imports, segments=sources.new_segments))
    known = engine.keep("known", old.semi_join(news, "event_id"))
    if _replaces(engine, news, known):
        raise _NotPossibleError("a new event has the id of a later one that is in the tables")
    fresh = news.anti_join(known, "event_id")
    moved = old.filter(_between_builds(old.event_time, last, as_of)).select("user_id")
    came = fresh.filter(fresh.event_time < moment(as_of)).select("user_id")
    changed = engine.keep("changed", came.union(moved).distinct())
    theirs = engine.keep("theirs", old.semi_join(changed, "user_id"))
    if len(sources.old_imports) + len(sources.old_segments) > 1 and _are_doubled(engine, old, theirs, changed):
        theirs = one_per_id(old.semi_join(theirs, "event_id")).semi_join(changed, "user_id")
    theirs = theirs.mutate(is_old=theirs.event_time < moment(last))
    return theirs.union(fresh.semi_join(changed, "user_id").mutate(is_old=False)), changed


def _are_doubled(engine: DuckDb, old: ibis.Table, theirs: ibis.Table, changed: ibis.Table) -> bool:
    """Whether an event_id of `theirs` is in the log twice, maybe as another user's."""
    others = old.anti_join(changed, "user_id").semi_join(theirs, "event_id")
    count: int = engine.fetch(others.agg(found=others.count()))["found"][0].as_py()
    own = engine.fetch(theirs.agg(events=theirs.count(), ids=theirs.event_id.nunique()))
    return count > 0 or own["events"][0].as_py() > own["ids"][0].as_py()


def _replaces(engine: DuckDb, news: ibis.Table, known: ibis.Table) -> bool:
    """Whether an event of `known` may no longer be the earliest of its id."""
    is_same = reduce(lambda same, name: same & known[name].identical_to(news[name]), COLUMNS, ibis.literal(value=True))
    both = known.join(news, [known.event_id == news.event_id, news.event_time <= known.event_time, ~is_same])
    count: int = engine.fetch(both.agg(found=both.count()))["found"][0].as_py()
    return count > 0


def _between_builds(time: ibis.Value, last: datetime, as_of: datetime) -> ibis.Value:
    """What was in the log too early for the last build, and what has left a window since."""
    ages = [timedelta(days=days) for days in (0, *views.WINDOWS_DAYS)]
    return reduce(or_, ((time >= moment(last - age)) & (time < moment(as_of - age)) for age in ages))


@dataclass(frozen=True, kw_only=True)
class _LastBuild:
    """The tables that are there, without the users who changed."""

    engine: DuckDb
    state: StateDir
    as_of: datetime
    changed: ibis.Table

    def kept(self, view: View, as_of: datetime) -> ibis.Table:
        """The rows of the users who did not change, at the new moment."""
        return self.table(view).anti_join(self.changed, "user_id").mutate(as_of=moment(as_of))

    def with_kept(self, view: View, rows: ibis.Table, as_of: datetime) -> ibis.Table:
        """`rows` of the changed users and the others'."""
        columns = ["user_id", "as_of", *view.feature_names()]
        types = {feature.name: IBIS_TYPES[feature.dtype] for feature in view.features}
        return rows.select(columns).cast(types).union(self.kept(view, as_of).select(columns).cast(types))

    def table(self, view: View) -> ibis.Table:
        return self.engine.con.read_parquet(str(build.offline_file(self.state, view))).drop(build.EVENT_TIMESTAMP)


def _tables(
    last: _LastBuild, events: ibis.Table, items: ibis.Table, *, as_of: datetime, settings: FeatureSettings
) -> Iterator[tuple[View, ibis.Table]]:
    engine = last.engine
    spine = engine.keep("spine", events.select("user_id").distinct().mutate(as_of=moment(as_of)))
    behavior = build.behavior(engine, events, items, spine, as_of)
    yield USER_BEHAVIOR, last.with_kept(USER_BEHAVIOR, behavior, as_of)
    yield USER_ACTIVITY, _activity(last, build.summaries(engine, events, as_of, settings), spine, as_of, settings)
    pairs = engine.keep("pairs", facts.pairs(events))
    yield USER_CONTACTS, last.with_kept(USER_CONTACTS, build.contacted(events, pairs, spine, as_of), as_of)
    known = engine.keep("item_facts", _item_facts(last, events, pairs, as_of))
    yield facts.ITEM_FACTS, known.mutate(as_of=moment(as_of))
    yield ITEM_STATS, views.item_stats_rows(known, items, as_of)


def _activity(
    last: _LastBuild, summaries: ibis.Table, spine: ibis.Table, as_of: datetime, settings: FeatureSettings
) -> ibis.Table:
    others = last.kept(USER_ACTIVITY, as_of)
    names = ["user_id", *_SUMMARY, *_VISITS]
    summaries = summaries.select(names).union(others.select(names))
    everyone = spine.union(others.select("user_id", "as_of"))
    return build.activity(last.engine, views.user_activity_rows(summaries, everyone, settings))


def _item_facts(last: _LastBuild, events: ibis.Table, pairs: ibis.Table, as_of: datetime) -> ibis.Table:
    """`facts.items` of everyone: the last build's, less what the changed users gave to it, and what they give now."""
    old = events.filter(events.is_old)
    before = facts.items(facts.pairs(old), old, last.as_of)
    sums = [name for name in facts.ITEM_FACTS.feature_names() if name not in ("first_us", "users")]
    less = before.mutate(first_us=ibis.null("int64"), **{name: -before[name] for name in (*sums, "users")})
    parts = [part.select("item_id", *sums, "first_us") for part in (last.table(facts.ITEM_FACTS), less)]
    now = facts.items(pairs, events, as_of)
    every = ibis.union(*parts, now.select("item_id", *sums, "first_us"))
    rows = every.group_by("item_id").agg(
        first_us=_.first_us.min(), **{name: _[name].sum().cast("int64") for name in sums}
    )
    counted = [each.agg(users=_.users.max()) for each in (last.table(facts.ITEM_FACTS), less, now)]
    return rows.cross_join(ibis.union(*counted).agg(users=_.users.sum().cast("int64")))
