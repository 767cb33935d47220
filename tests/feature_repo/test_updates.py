"""Streaming into the online rows: what a rebuild of the log gives, in whatever order and however often events come."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from feature_repo.contract import ITEM_STATS, USER_ACTIVITY, USER_BEHAVIOR, USER_CONTACTS, View
from feature_repo.events import CONTACT_TYPES, Event
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.online.rows import Int64s, Row
from feature_repo.online.store import FeatureStoreError
from feature_repo.online.streamed import STREAMED
from feature_repo.settings import FeatureSettings
from feature_repo.stream.updates import FeedbackWorker
from feature_repo.stream.user_state import UserState
from feature_repo.tables import contacts, views
from tests.feature_repo.test_views import items_table
from tests.feature_repo.world import NOW, event

SETTINGS = FeatureSettings()


class MemoryOnline:
    """Keeps what was streamed last; fails when told to."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.failures = 0

    def stream(self, view: View, batch: pa.RecordBatch) -> None:
        if self.failures:
            self.failures -= 1
            raise FeatureStoreError("away")
        for row in batch.to_pylist():
            self.rows[view.name, row[view.entity]] = row

    def load(self, view: View, batch: pa.RecordBatch) -> int:
        raise NotImplementedError

    def read(self, view: View, entity_ids: Sequence[str]) -> list[Row | None]:
        raise NotImplementedError

    def times(self, view: View, entity_ids: Sequence[str]) -> Int64s:
        raise NotImplementedError

    def erase(self, entity: str, entity_id: str) -> dict[str, int]:
        raise NotImplementedError

    def close(self) -> None:
        pass


KINDS = ("view", "purchase", "exposure", "exposure", "return", "contact", "opt_out", "opt_in")
AGES_S = (0, 1, 1.5, 3_600, 86_400, 20 * 86_400, 50 * 86_400, 90 * 86_400, 90 * 86_400 + 1)


@st.composite
def busy_logs(draw: st.DrawFn) -> list[Event]:
    """Many events of few users, items and moments, so that they meet; contacts and choices among them."""
    choices = [st.sampled_from(each) for each in (("u1", "u2"), ("i1", "i2", "i3"), KINDS, AGES_S, ("push", ""))]
    rows = draw(st.lists(st.tuples(*choices), min_size=20, max_size=40))
    return [
        event(
            f"e{number}",
            user_id=user_id,
            item_id="" if kind in CONTACT_TYPES else item_id,
            event_type=kind,
            event_time=NOW - timedelta(seconds=age_s),
            surface=channel,
        )
        for number, (user_id, item_id, kind, age_s, channel) in enumerate(rows)
    ]


def import_events(state: StateDir, events: Sequence[Event]) -> None:
    """As an import leaves them."""
    if not events:
        return
    other = EventLog(state.root / "other")
    other.append(events)
    other.table(ibis.duckdb.connect()).to_parquet(state.events / "shop.parquet")


def rebuilt(state: StateDir) -> dict[tuple[str, str], dict[str, Any]]:
    """The batch's rows of the log a second after NOW."""
    con = ibis.duckdb.connect()
    events, as_of = EventLog(state.events).table(con), NOW + timedelta(seconds=1)
    spine = views.spine_of_all(events, as_of)
    tables = (
        (USER_BEHAVIOR, views.user_behavior(events, items_table(), spine, SETTINGS)),
        (USER_ACTIVITY, views.user_activity(events, spine, SETTINGS)),
        (USER_CONTACTS, contacts.user_contacts(events, spine, SETTINGS)),
        (ITEM_STATS, views.item_stats(events, items_table(), as_of, SETTINGS)),
    )
    return {(view.name, row[view.entity]): row for view, table in tables for row in con.to_pyarrow(table).to_pylist()}


@settings(max_examples=6, deadline=None, phases=[Phase.generate])  # shrinking takes minutes
@given(log=busy_logs(), imported=st.integers(0, 10), random=st.randoms(use_true_random=False))
def test_streaming_in_any_order_twice_and_through_crashes_gives_what_a_rebuild_gives(
    log: list[Event], imported: int, random: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state, online = StateDir(Path(folder)), MemoryOnline()
        state.events.mkdir()
        import_events(state, log[:imported])
        arrivals = log[imported:] + random.sample(log, len(log) // 2)
        random.shuffle(arrivals)
        touched = {each.user_id for each in arrivals if each not in log[:imported]}
        worker = FeedbackWorker(state, SETTINGS, online)
        while arrivals:
            size = random.randint(1, 6)
            EventLog(state.events).append(arrivals[:size])
            arrivals = arrivals[size:]
            if random.random() < 0.3:
                online.failures = 1
            try:
                worker.step(now=NOW)
            except FeatureStoreError:
                worker.close()
                worker = FeedbackWorker(state, SETTINGS, online)
        online.failures = 0
        while worker.step(now=NOW):
            pass
        worker.close()
        expected = rebuilt(state)
        assert {user_id for view, user_id in online.rows if view == "user_activity"} == touched
        for (view, entity_id), row in online.rows.items():
            names = STREAMED[view]
            assert {name: row[name] for name in names} == {name: expected[view, entity_id][name] for name in names}


@settings(max_examples=15, deadline=None)
@given(log=busy_logs())
def test_the_memory_made_from_the_log_is_that_of_each_event_in_turn(log: list[Event]) -> None:
    from feature_repo.stream.seed import seeded

    with tempfile.TemporaryDirectory() as folder:
        state = StateDir(Path(folder))
        EventLog(state.events).append(log)
        one_by_one: dict[str, UserState] = {}
        for each in log:
            one_by_one.setdefault(each.user_id, UserState()).add(each, SETTINGS)
        with seeded(state, SETTINGS) as seed:
            found = {user_id: _comparable(UserState.from_json(text)) for user_id, text in seed.users}
        assert found == {user_id: _comparable(user) for user_id, user in one_by_one.items()}


def test_an_import_during_the_work_is_taken_in(tmp_path: Path) -> None:
    state, online = StateDir(tmp_path), MemoryOnline()
    EventLog(state.events).append([event("a")])
    worker = FeedbackWorker(state, SETTINGS, online)
    worker.step(now=NOW)
    table = EventLog(state.events).table(ibis.duckdb.connect()).to_pyarrow()
    imported = table.set_column(0, "event_id", pa.array(["b"])).set_column(2, "item_id", pa.array(["i2"]))
    pq.write_table(imported, state.events / "shop.parquet")
    worker.step(now=NOW)
    assert sorted(online.rows["user_behavior", "u1"]["history_item_ids"]) == ["i1", "i2"]
    worker.close()


def _comparable(user: UserState) -> dict[str, Any]:
    """Of lists whose order means nothing, the set."""
    found = json.loads(user.to_json())
    return {
        "events": found[0],
        "days": sorted(found[1]),
        "lists": found[2:4],
        "choices": found[4],
        "engaged": found[5],
        "shown": {item_id: sorted(times) for item_id, times in found[6].items()},
    }
