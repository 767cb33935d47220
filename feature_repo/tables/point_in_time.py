"""Feature rows of users and items at moments of the past, from the events before each, on any engine.

What is a user's own is of the very moment. What depends on everyone (`NIGHTLY`, and all of an item) is of the
midnight (UTC) before it, which is what a nightly build would have left in the store.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import ibis
import pyarrow as pa

from feature_repo.contract import ITEM_NEIGHBORS, ITEM_STATS, USER_ACTIVITY, USER_BEHAVIOR, USER_CONTACTS, View
from feature_repo.events import EPOCH
from feature_repo.settings import FeatureSettings
from feature_repo.tables import contacts, facts, neighbors, views
from feature_repo.tables.build import activity
from feature_repo.tables.engine import IBIS_TYPES, Engine
from feature_repo.tables.expressions import left_join, moment
from feature_repo.tables.views import Past
from feature_repo.tabular import DataError

NIGHTLY: Final = ("p_alive", "expected_events_30d", "tail_percentile")  # of `user_activity`
KNOWN: Final = (USER_BEHAVIOR, USER_ACTIVITY, USER_CONTACTS, ITEM_STATS, ITEM_NEIGHBORS)
_TIME: Final = pa.timestamp("us", "UTC")
_NIGHTLY_SCHEMA: Final = pa.schema(
    [("user_id", pa.string()), *((name, pa.float64()) for name in NIGHTLY), ("midnight", _TIME)]
)
_DAY_US: Final = facts.DAY * 1_000_000


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Of whom and of what, and when; each once. Items are asked at midnights."""

    users: Sequence[tuple[str, datetime]]
    items: Sequence[tuple[str, datetime]]

    def last(self) -> datetime:
        return max(as_of for _, as_of in (*self.users, *self.items))


def midnight_before(as_of: datetime) -> datetime:
    """The start of the UTC day, or the moment itself when it is one."""
    return as_of.replace(hour=0, minute=0, second=0, microsecond=0)


def feature_tables(
    engine: Engine, asked: Asked, settings: FeatureSettings, wanted: Sequence[View]
) -> Iterator[tuple[View, ibis.Table]]:
    """The wanted views' rows of what is asked, one per key and moment; a view may come in several parts.

    Where a build would have no row, the row holds the contract's defaults, as serving has it.
    """
    events, items = engine.events(asked.last()), engine.items()
    if engine.fetch(events.agg(events=events.count()))["events"][0].as_py() == 0:
        raise DataError(f"the event log has no event before {asked.last().isoformat()}, the last moment asked for")
    past = _Past(engine=engine, events=events, items=items, settings=settings)
    if asked.users:
        yield from past.user_tables(asked.users, wanted)
    if asked.items:
        yield from past.item_tables(asked.items, wanted)


@dataclass(frozen=True, kw_only=True)
class _Past:
    """All events and items on one engine."""

    engine: Engine
    events: ibis.Table
    items: ibis.Table
    settings: FeatureSettings

    def user_tables(
        self, asked: Sequence[tuple[str, datetime]], wanted: Sequence[View]
    ) -> Iterator[tuple[View, ibis.Table]]:
        spine = self.engine.put("asked_users", spine_of("user_id", asked))
        theirs = self.engine.keep("their_events", self.events.semi_join(spine, "user_id"))
        for view, own in own_tables(theirs, self.items, spine, self.settings, wanted):
            if view is USER_ACTIVITY:
                nightly = self.engine.put("nightly", self._nightly(asked, spine))
                rows = own.drop("tail_percentile").left_join(nightly, ["user_id", "midnight"])
                yield USER_ACTIVITY, _with_defaults(rows, USER_ACTIVITY)
            else:
                yield view, own

    def item_tables(
        self, asked: Sequence[tuple[str, datetime]], wanted: Sequence[View]
    ) -> Iterator[tuple[View, ibis.Table]]:
        spine = self.engine.put("asked_items", spine_of("item_id", asked))
        for midnight in sorted({as_of for _, as_of in asked}):
            past = self.events.filter(self.events.event_us < _us(midnight))
            now_asked = spine.filter(spine.as_of == moment(midnight))
            pairs = self.engine.keep("pairs", facts.pairs(past))
            if ITEM_STATS in wanted:
                known = self.engine.keep("item_facts", facts.items(pairs, past, midnight))
                rows = views.item_stats_rows(known, self.items, midnight)
                yield ITEM_STATS, _with_defaults(left_join(now_asked, rows.drop("as_of"), ["item_id"]), ITEM_STATS)
                self.engine.drop("item_facts")
            if ITEM_NEIGHBORS in wanted:
                rows = neighbors.item_neighbors_rows(pairs, self.items, midnight, self.settings).drop("as_of")
                yield ITEM_NEIGHBORS, _with_defaults(left_join(now_asked, rows, ["item_id"]), ITEM_NEIGHBORS)
            self.engine.drop("pairs")

    def _nightly(self, asked: Sequence[tuple[str, datetime]], spine: ibis.Table) -> pa.Table:
        """(user_id, midnight) → NIGHTLY, of those asked that an event before the midnight tells of."""
        days = self.engine.keep("days_of_all", facts.with_returns(facts.days(self.events), self.settings.lifecycle))
        with _each_warning_once("feature_repo.tables.bgnbd"):
            midnights = sorted({midnight_before(as_of) for _, as_of in asked})
            parts = [self._night(midnight, days, spine) for midnight in midnights]
        self.engine.drop("days_of_all")
        return pa.concat_tables(parts)

    def _night(self, midnight: datetime, days: ibis.Table, spine: ibis.Table) -> pa.Table:
        everyone = self.events.filter(self.events.event_us < _us(midnight)).select("user_id").distinct()
        known = views.summarize(Past(rows=days.filter(days.day < _us(midnight) // _DAY_US), as_of=midnight))
        rows = views.user_activity_rows(known, everyone.mutate(as_of=moment(midnight)), self.settings)
        rows = activity(self.engine, rows)
        theirs = rows.semi_join(spine.filter(spine.midnight == moment(midnight)), "user_id")
        found = self.engine.fetch(theirs.select("user_id", *NIGHTLY, midnight="as_of"))
        self.engine.drop("activity", "predicted")
        return found.cast(_NIGHTLY_SCHEMA)


def own_tables(
    theirs: ibis.Table, items: ibis.Table, spine: ibis.Table, settings: FeatureSettings, wanted: Sequence[View]
) -> Iterator[tuple[View, ibis.Table]]:
    """The spine's users at its very moments, from their events; of `NIGHTLY` nothing that means anything."""
    if USER_BEHAVIOR in wanted:
        yield USER_BEHAVIOR, views.user_behavior(theirs, items, spine, settings)
    if USER_ACTIVITY in wanted:
        yield USER_ACTIVITY, views.user_activity(theirs, spine, settings)
    if USER_CONTACTS in wanted:
        yield USER_CONTACTS, contacts.user_contacts(theirs, spine, settings)


def spine_of(key: str, asked: Sequence[tuple[str, datetime]]) -> pa.Table:
    """Whom or what is asked for, with the moments and the midnights before them."""
    columns = {
        key: pa.array([name for name, _ in asked], pa.string()),
        "as_of": pa.array([as_of for _, as_of in asked], _TIME),
        "midnight": pa.array([midnight_before(as_of) for _, as_of in asked], _TIME),
    }
    return pa.table(columns)


def _with_defaults(rows: ibis.Table, view: View) -> ibis.Table:
    """Only a missing row has null in a feature whose default is a value."""
    known = [feature for feature in view.features if feature.default is not None]
    return rows.mutate(
        **{f.name: rows[f.name].fill_null(ibis.literal(f.default, type=IBIS_TYPES[f.dtype])) for f in known}
    )


def _us(as_of: datetime) -> int:
    return (as_of - EPOCH) // timedelta(microseconds=1)


@contextmanager
def _each_warning_once(logger: str) -> Iterator[None]:
    """Many fits of one log have the same to say."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        is_new = str(record.msg) not in said
        said.add(str(record.msg))
        return is_new

    logging.getLogger(logger).addFilter(is_new)
    try:
        yield
    finally:
        logging.getLogger(logger).removeFilter(is_new)
