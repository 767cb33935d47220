from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.contract import HISTORY_LENGTH
from feature_repo.events import Event
from feature_repo.lifecycle import DAY_S, state_at
from feature_repo.online.packed_lists import times, words
from feature_repo.settings import FeatureSettings, LifecycleSettings
from feature_repo.tables import views
from tests.feature_repo.world import NOW, event, logs

CON = ibis.duckdb.connect()
SETTINGS = FeatureSettings(lifecycle=LifecycleSettings(new_days=7, resurrected_days=5))
SOON = NOW + timedelta(seconds=1)  # after every event of `logs`
EVENT_TYPES = {
    "event_id": "string",
    "user_id": "string",
    "item_id": "string",
    "event_type": "string",
    "event_time": "timestamp('UTC', 6)",
    "surface": "string",
}
ITEM_TYPES = {
    "item_id": "string",
    "title": "string",
    "category": "string",
    "categories": "array<string>",
    "text": "string",
    "price": "float32",
    "withdrawn": "boolean",
}


def events_table(events: Sequence[Event]) -> ibis.Table:
    rows = [{name: getattr(e, name) for name in EVENT_TYPES} for e in events]
    schema = ibis.schema(EVENT_TYPES)
    return ibis.memtable(pa.Table.from_pylist(rows, schema=schema.to_pyarrow()), schema=schema)


def items_table(items: Sequence[dict[str, Any]] = ()) -> ibis.Table:
    defaults: dict[str, Any] = {
        "title": "",
        "category": "",
        "categories": [],
        "text": "",
        "price": None,
        "withdrawn": False,
    }
    schema = ibis.schema(ITEM_TYPES)
    return ibis.memtable(pa.Table.from_pylist([defaults | i for i in items], schema=schema.to_pyarrow()), schema=schema)


def spine_table(rows: Sequence[tuple[str, datetime]]) -> ibis.Table:
    schema = ibis.schema({"user_id": "string", "as_of": "timestamp('UTC', 6)"})
    table = [{"user_id": user_id, "as_of": as_of} for user_id, as_of in rows]
    return ibis.memtable(pa.Table.from_pylist(table, schema=schema.to_pyarrow()), schema=schema)


def rows_of(table: ibis.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = CON.to_pyarrow(table).to_pylist()
    return found


def behavior(events: Sequence[Event], user_id: str = "u1", as_of: datetime = NOW, **items: Any) -> dict[str, Any]:
    spine = spine_table([(user_id, as_of)])
    (row,) = rows_of(views.user_behavior(events_table(events), items_table(**items), spine, SETTINGS))
    return row


def activity(events: Sequence[Event], as_of: datetime = NOW) -> dict[str, dict[str, Any]]:
    table = events_table(events)
    rows = rows_of(views.user_activity(table, views.spine_of_all(table, as_of), SETTINGS))
    return {row["user_id"]: row for row in rows}


def at(days: float) -> datetime:
    """So many days before NOW."""
    return NOW - timedelta(days=days)


def test_history_is_newest_first_and_holds_engagements_only() -> None:
    row = behavior(
        [
            event("a", item_id="old", event_time=at(9)),
            event("b", item_id="seen", event_type="exposure", event_time=at(3)),
            event("c", item_id="back", event_type="return", event_time=at(2)),
            event("d", item_id="new", event_type="purchase", event_time=at(1)),
            event("e", item_id="old", event_time=at(0.5)),
        ]
    )
    assert row["history_item_ids"] == ["old", "new", "old"]
    assert words(row["history_type_places"], row["count_event_types"]) == ["view", "purchase", "view"]
    assert times(row["history_gaps_s"]) == [int(at(days).timestamp()) for days in (0.5, 1, 9)]


def test_the_same_behaviour_in_one_second_counts_once() -> None:
    time = at(1)
    row = behavior([event("a", event_time=time), event("b", event_time=time + timedelta(milliseconds=300))])
    assert row["history_item_ids"] == ["i1"]


def test_history_is_cut_to_its_length() -> None:
    row = behavior([event(str(n), item_id=f"i{n}", event_time=at(n + 1)) for n in range(HISTORY_LENGTH + 20)])
    assert row["history_item_ids"] == [f"i{n}" for n in range(HISTORY_LENGTH)]


def test_counts_are_of_each_type_in_the_windows_before_the_rows_time() -> None:
    row = behavior(
        [
            event("a", event_time=at(0.5)),
            event("b", event_time=at(3)),
            event("c", event_time=at(20)),
            event("d", event_type="purchase", event_time=at(6)),
            event("e", event_type="click", event_time=at(40)),
        ]
    )
    assert row["count_event_types"] == ["click", "purchase", "view"]
    assert (row["counts_1d"], row["counts_7d"], row["counts_30d"]) == ([0, 0, 1], [0, 1, 2], [0, 1, 3])


def test_affinities_are_shares_of_weighted_engagements_best_first() -> None:
    items = [{"item_id": "i1", "categories": ["shoes"]}, {"item_id": "i2", "categories": ["hats", "shoes"]}]
    row = behavior(
        [event("a", item_id="i1", event_type="purchase"), event("b", item_id="i2"), event("c", item_id="unknown")],
        items=items,
    )
    assert row["affinity_categories"] == ["shoes", "hats"]
    assert row["affinity_shares"] == pytest.approx([4 / 5, 1 / 5])


def test_an_unknown_user_has_empty_lists() -> None:
    row = behavior([event()], user_id="nobody")
    assert [value for name, value in row.items() if name not in ("user_id", "as_of")] == [[]] * 9


def test_a_million_equal_timestamps_still_give_one_history_in_a_settled_order() -> None:
    schema = ibis.schema(EVENT_TYPES)
    numbers = ibis.range(1_000_000).unnest().name("number").as_table()
    many = numbers.select(
        event_id=numbers.number.cast("string"),
        user_id=ibis.literal("u1"),
        item_id=numbers.number.cast("string"),
        event_type=ibis.literal("view"),
        event_time=ibis.literal(at(1), type="timestamp('UTC', 6)"),
        surface=ibis.literal(""),
    ).cast(schema)
    (row,) = rows_of(views.user_behavior(many, items_table(), spine_table([("u1", NOW)]), SETTINGS))
    assert row["history_item_ids"] == sorted(str(n) for n in range(1_000_000))[:HISTORY_LENGTH]


@settings(max_examples=15, deadline=None)
@given(log=logs(), cut=st.integers(0, 8).map(lambda quarters: quarters / 4))
def test_events_at_or_after_the_moment_change_nothing(log: list[Event], cut: float) -> None:
    as_of = at(cut)
    before = [e for e in log if e.event_time < as_of]
    spine = [(f"u{n}", as_of) for n in (1, 2, 3)]

    def computed(events: list[Event]) -> list[dict[str, Any]]:
        table, moments = events_table(events), spine_table(spine)
        behaviors = rows_of(views.user_behavior(table, items_table(), moments, SETTINGS).order_by("user_id"))
        activities = rows_of(views.user_activity(table, moments, SETTINGS).order_by("user_id"))
        items = rows_of(views.item_stats(table, items_table(), as_of, SETTINGS).order_by("item_id"))
        return behaviors + activities + items

    assert computed(log) == computed(before)


@settings(max_examples=40, deadline=None)
@given(log=logs(users=2), cut=st.sampled_from([0.0, 7.0, 14.0, 30.0, 13.99999, 30.000001]))
def test_the_batch_state_is_the_state_serving_derives(log: list[Event], cut: float) -> None:
    for row in activity(log, at(cut)).values():
        state, days = state_at(row, now_unix_s=at(cut).timestamp(), settings=SETTINGS.lifecycle)
        assert row["state"] == state
        assert row["days_in_state"] == pytest.approx(days, rel=1e-6, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(log=logs(users=2))
def test_activity_equals_a_plain_recount(log: list[Event]) -> None:
    rows = activity(log, SOON)
    for user_id in {e.user_id for e in log}:
        acts = sorted(e.event_time for e in log if e.user_id == user_id and e.event_type != "exposure")
        days = {time.date(): time for time in reversed(acts)}  # the first act of each day
        row = rows[user_id]
        assert (row["events"], row["active_days"]) == (len(acts), len(days))
        for window in (7, 28, 90):
            began = [time for time in days.values() if SOON.timestamp() - int(time.timestamp()) <= window * DAY_S]
            assert row[f"visits_{window}d"] == len(began)
        seconds = [int(time.timestamp()) for time in acts]
        returns = [b for a, b in pairwise(seconds) if b - a >= 30 * DAY_S]
        assert row["first_seen_unix_s"] == min(seconds, default=None)
        assert row["last_seen_unix_s"] == max(seconds, default=None)
        assert row["returned_unix_s"] == max(returns, default=None)
        span = (max(days) - min(days)).days if days else 0
        expected = span / (len(days) - 1) if len(days) > 1 else None
        assert row["mean_gap_days"] == (None if expected is None else pytest.approx(expected))


def test_a_user_who_was_only_shown_things_is_new_and_has_a_row() -> None:
    row = activity([event(event_type="exposure", event_time=at(80))])["u1"]
    assert (row["state"], row["events"], row["last_seen_unix_s"]) == ("new", 0, None)


def test_the_thinnest_user_is_at_1_the_most_active_at_0_and_equals_share() -> None:
    sizes = {"a": 9, "b": 2, "c": 2, "d": 1}
    rows = activity([event(f"{u}{n}", user_id=u, item_id=f"i{n}") for u, size in sizes.items() for n in range(size)])
    assert {u: row["tail_percentile"] for u, row in rows.items()} == {"a": 0.0, "b": 0.5, "c": 0.5, "d": 1.0}


def test_a_log_of_one_user_works() -> None:
    row = activity([event()])["u1"]
    assert row["tail_percentile"] == 1.0
    assert len(rows_of(views.item_stats(events_table([event()]), items_table(), NOW, SETTINGS))) == 1


def stats(events: Sequence[Event], items: Sequence[dict[str, Any]] = ()) -> dict[str, dict[str, Any]]:
    rows = rows_of(views.item_stats(events_table(events), items_table(items), SOON, SETTINGS))
    return {row["item_id"]: row for row in rows}


def test_items_of_the_catalogue_and_of_the_log_have_rows() -> None:
    rows = stats([event(item_id="logged")], [{"item_id": "listed", "title": "Hat", "category": "hats", "price": 9.5}])
    assert (rows["listed"]["engagements"], rows["listed"]["title"], rows["listed"]["price"]) == (0, "Hat", 9.5)
    assert (rows["logged"]["engagements"], rows["logged"]["title"], rows["logged"]["withdrawn"]) == (1, "", False)


@settings(max_examples=25, deadline=None)
@given(log=logs())
def test_item_counts_percentile_and_novelty_equal_a_plain_recount(log: list[Event]) -> None:
    rows = stats(log)
    engaged = [e for e in log if SETTINGS.weight(e.event_type) > 0]
    engagements = Counter(e.item_id for e in engaged)
    users = {e.user_id for e in engaged}
    assert set(rows) == {e.item_id for e in log}
    for item_id, row in rows.items():
        theirs = {e.user_id for e in engaged if e.item_id == item_id}
        others = [engagements[other] for other in rows if other != item_id]
        below = sum((n < engagements[item_id]) + (n == engagements[item_id]) / 2 for n in others)
        assert row["engagements"] == engagements[item_id]
        assert row["engaged_users"] == len(theirs)
        assert row["exposures"] == sum(e.item_id == item_id and e.event_type == "exposure" for e in log)
        assert row["popularity_percentile"] == pytest.approx(below / len(others) if others else 1.0)
        assert row["novelty_bits"] == pytest.approx(-math.log2((len(theirs) + 1) / (len(users) + 1)), abs=1e-6)


def test_the_rate_is_of_users_who_saw_the_item_and_then_engaged_drawn_to_the_mean() -> None:
    def shown(user: str, item: str) -> Event:
        return event(f"s{user}{item}", user_id=user, item_id=item, event_type="exposure", event_time=at(2))

    log = [shown("a", "i1"), shown("b", "i1"), shown("a", "i2"), shown("b", "i2")]
    log += [event("c1", user_id="a", item_id="i1", event_time=at(1)), event("c2", user_id="b", item_id="i1")]
    log += [event("early", user_id="a", item_id="i2", event_time=at(3)), event("unseen", user_id="z", item_id="i2")]
    rows = stats(log, [{"item_id": "never"}])
    mean = 2 / 4
    assert rows["i1"]["engagement_rate"] == pytest.approx((2 + 20 * mean) / (2 + 20))
    assert rows["i2"]["engagement_rate"] == pytest.approx((0 + 20 * mean) / (2 + 20))
    assert rows["never"]["engagement_rate"] == pytest.approx(mean)


def test_without_exposures_rates_are_missing() -> None:
    assert stats([event()])["i1"]["engagement_rate"] is None


def test_times_do_not_depend_on_the_machines_time_zone() -> None:
    con = ibis.duckdb.connect()
    con.raw_sql("SET TimeZone = 'America/New_York'")
    late = datetime(2026, 2, 1, 23, 30, tzinfo=UTC)
    table = events_table([event("a", event_time=late), event("b", event_time=late + timedelta(hours=1))])
    (row,) = con.to_pyarrow(views.user_activity(table, views.spine_of_all(table, NOW), SETTINGS)).to_pylist()
    assert row["active_days"] == 2
    assert row["first_seen_unix_s"] == int(late.timestamp())
