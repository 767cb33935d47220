"""Build → apply → materialize → check on SQLite and a real Redis, read back by a plain Feast SDK."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast import FeatureStore

from feature_repo import contract
from feature_repo.definitions import ITEM_SERVICE, USER_SERVICE
from feature_repo.events import Event
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.online.materialize import check, materialize
from feature_repo.online.rows import online_of
from feature_repo.online.sqlite_rows import SqliteOnline
from feature_repo.online.store import FeatureStoreError, apply, open_store, redis_connection_string, store_config
from feature_repo.settings import FeatureSettings, MaterializeSettings
from feature_repo.stream.updates import FeedbackWorker, open_worker
from feature_repo.tables.build import build, offline_file
from feature_repo.tabular import DataError
from tests.feature_repo.conftest import Installation
from tests.feature_repo.world import NOW, event

LONG_AGO = datetime(1998, 3, 7, tzinfo=UTC)


def fill(state: StateDir, *more: Event) -> None:
    """A user of 1998, one of yesterday, one of another script who was only shown something."""
    EventLog(state.events).append(
        [
            event("old", user_id="dormant", item_id="i1", event_time=LONG_AGO),
            event("new", user_id="u1", item_id="i2", event_type="purchase"),
            event("shown", user_id="ユーザー", item_id="i2", event_type="exposure"),
            *more,
        ]
    )


def set_up(installation: Installation, *more: Event) -> FeatureStore:
    fill(installation.state, *more)
    build(installation.state, installation.settings, as_of=NOW)
    apply(installation.state, installation.settings)
    store = open_store(installation.state, installation.settings)
    materialize(installation.state, store)
    return store


def sdk_user(state: StateDir, user_ids: Sequence[str]) -> dict[str, list[Any]]:
    """As someone reads it who knows nothing of this package."""
    store = FeatureStore(repo_path=str(state.feast))
    rows = [{"user_id": user_id} for user_id in user_ids]
    found: dict[str, list[Any]] = store.get_online_features(store.get_feature_service(USER_SERVICE), rows).to_dict()
    return found


def test_a_plain_feast_sdk_reads_what_was_built(installation: Installation) -> None:
    set_up(installation)
    for view in (contract.USER_BEHAVIOR, contract.USER_ACTIVITY):
        for row in pq.read_table(offline_file(installation.state, view)).to_pylist():
            online = sdk_user(installation.state, [row["user_id"]])
            assert {name: online[name][0] for name in view.feature_names()} == {
                name: row[name] for name in view.feature_names()
            }
    store = FeatureStore(repo_path=str(installation.state.feast))
    service = store.get_feature_service(ITEM_SERVICE)
    for row in pq.read_table(offline_file(installation.state, contract.ITEM_STATS)).to_pylist():
        online = store.get_online_features(service, [{"item_id": row["item_id"]}]).to_dict()
        assert {name: online[name][0] for name in contract.ITEM_STATS.feature_names()} == {
            name: row[name] for name in contract.ITEM_STATS.feature_names()
        }


def test_users_long_gone_are_there(installation: Installation) -> None:
    set_up(installation)
    found = sdk_user(installation.state, ["dormant"])
    assert found["state"] == ["dormant"]
    assert found["history_item_ids"] == [["i1"]]


def test_a_table_computed_in_1998_is_loaded_and_does_not_expire(installation: Installation) -> None:
    fill(installation.state)
    build(installation.state, installation.settings, as_of=LONG_AGO + timedelta(days=1))
    apply(installation.state, installation.settings)
    materialize(installation.state, open_store(installation.state, installation.settings))
    assert sdk_user(installation.state, ["dormant"])["state"] == ["new"]


def test_an_unknown_user_reads_as_missing_and_not_as_an_error(installation: Installation) -> None:
    store = set_up(installation)
    assert sdk_user(installation.state, ["nobody"])["state"] == [None]
    assert online_of(store).read(contract.USER_ACTIVITY, ["nobody"]) == [None]


def test_check_agrees_after_materializing_and_tells_what_is_missing_or_older(installation: Installation) -> None:
    store = set_up(installation)
    assert all(view.agrees for view in check(installation.state, store))
    EventLog(installation.state.events).append([event("another", user_id="u9", item_id="i9")])
    build(installation.state, installation.settings, as_of=NOW + timedelta(hours=1))
    found = {view.view: (view.missing, view.older) for view in check(installation.state, store)}
    unbuilt = {"user_weights": (0, 0), "user_returns": (0, 0)}
    items = {"item_stats": (1, 2), "item_neighbors": (1, 2)}
    assert found == {"user_behavior": (1, 3), "user_activity": (1, 3), "user_contacts": (1, 3), **items, **unbuilt}
    materialize(installation.state, store)
    assert all(view.agrees for view in check(installation.state, store))


def test_since_loads_only_rows_of_that_time_or_later(installation: Installation) -> None:
    store = set_up(installation)
    done = materialize(installation.state, store, since=NOW + timedelta(seconds=1))
    assert all(view.written == 0 and view.older == view.rows for view in done)
    assert all(view.written == view.rows for view in materialize(installation.state, store, since=NOW))


def test_user_weights_are_loaded_once_they_are_published(installation: Installation) -> None:
    store = set_up(installation)
    assert sdk_user(installation.state, ["u1"])["delta"] == [None]
    columns = {
        "user_id": pa.array(["u1"]),
        "event_timestamp": pa.array([NOW], pa.timestamp("us", "UTC")),
        "delta": pa.array([[0.5, -1.0]], pa.list_(pa.float32())),
        "model_version": pa.array([20260301120000]),
    }
    pq.write_table(pa.table(columns), offline_file(installation.state, contract.USER_WEIGHTS))
    materialize(installation.state, store)
    found = sdk_user(installation.state, ["u1", "dormant"])
    assert found["delta"] == [[0.5, -1.0], None]
    assert found["model_version"] == [20260301120000, None]


def drain(installation: Installation, now: datetime) -> int:
    """What a worker that is started anew applies."""
    worker, total = open_worker(installation.state, installation.settings), 0
    while count := worker.step(now=now):
        total += count
    worker.close()
    return total


def test_feedback_changes_the_online_rows_once_and_survives_a_restart(installation: Installation) -> None:
    set_up(installation)
    now = NOW + timedelta(minutes=5)
    drain(installation, now)
    click = event("click", item_id="i7", event_type="click", event_time=now)
    contact = event("push", item_id="", event_type="contact", surface="push", event_time=now)
    stranger = event("hello", user_id="stranger", event_time=now)
    EventLog(installation.state.events).append([click, contact, stranger])
    assert drain(installation, now) == 3
    assert drain(installation, now) == 0
    found = sdk_user(installation.state, ["u1", "stranger"])
    assert found["history_item_ids"] == [["i7", "i2"], ["i1"]]
    assert found["counts_1d"][0] == [1, 0]
    assert found["counts_7d"][0] == [1, 1]
    assert found["affinity_categories"] == [[], []]
    assert found["events"] == [2, 1]
    assert found["channels"] == [["push"], []]
    assert found["p_alive"][1] is None
    items = FeatureStore(repo_path=str(installation.state.feast))
    rows = items.get_online_features(items.get_feature_service(ITEM_SERVICE), [{"item_id": "i7"}]).to_dict()
    assert (rows["engagements"], rows["title"]) == ([1], [""])


def test_events_in_one_second_are_all_kept(installation: Installation) -> None:
    set_up(installation)
    for number in range(3):
        EventLog(installation.state.events).append([event(f"e{number}", item_id=f"n{number}", event_time=NOW)])
        drain(installation, NOW + timedelta(milliseconds=number))
    assert set(sdk_user(installation.state, ["u1"])["history_item_ids"][0]) == {"i2", "n0", "n1", "n2"}


def test_materializing_an_older_table_undoes_no_feedback_and_brings_what_only_a_build_knows(
    installation: Installation,
) -> None:
    store = set_up(installation)
    EventLog(installation.state.events).append([event("click", item_id="i7", event_time=NOW)])
    drain(installation, NOW)
    table = pq.read_table(offline_file(installation.state, contract.USER_ACTIVITY))
    place = table.schema.get_field_index("p_alive")
    column = pa.array([0.25] * table.num_rows, pa.float32())
    pq.write_table(table.set_column(place, "p_alive", column), offline_file(installation.state, contract.USER_ACTIVITY))
    done = {view.view: (view.written, view.kept) for view in materialize(installation.state, store)}
    assert done["user_activity"] == (0, 3)
    found = sdk_user(installation.state, ["u1"])
    assert (found["history_item_ids"], found["events"], found["p_alive"]) == ([["i7", "i2"]], [2], [0.25])
    build(installation.state, installation.settings, as_of=NOW + timedelta(hours=1))
    assert {view.kept for view in materialize(installation.state, store)} == {0}
    assert sdk_user(installation.state, ["u1"])["history_item_ids"] == [["i7", "i2"]]


@pytest.mark.parametrize("damage", ["torn", "gone"])
def test_a_worker_without_its_memory_makes_it_again_from_the_log(installation: Installation, damage: str) -> None:
    set_up(installation)
    now = NOW + timedelta(minutes=1)
    drain(installation, now)
    before = sdk_user(installation.state, ["u1", "dormant"])
    memory = installation.state.feast / "stream-state.db"
    memory.unlink() if damage == "gone" else memory.write_bytes(b"torn" * 2000)
    drain(installation, now)
    assert sdk_user(installation.state, ["u1", "dormant"]) == before


def test_the_worker_waits_for_a_store_that_does_not_answer_and_skips_nothing(tmp_path: Path) -> None:
    class Flaky(SqliteOnline):
        failures = 2

        def stream(self, view: contract.View, batch: Any) -> None:
            if self.failures:
                self.failures -= 1
                raise FeatureStoreError("away")
            super().stream(view, batch)

    state, settings = StateDir(tmp_path), FeatureSettings()
    apply(state, settings)
    worker = FeedbackWorker(state, settings, Flaky(state.feast / "online.db"))
    worker.step(now=NOW)
    EventLog(state.events).append([event("a"), event("b", item_id="i2")])
    for _ in range(2):
        with pytest.raises(FeatureStoreError):
            worker.step(now=NOW)
    assert worker.step(now=NOW) == 0
    assert sdk_user(state, ["u1"])["events"] == [2]
    worker.close()


def test_of_two_workers_one_stands_by_until_the_other_ends(tmp_path: Path) -> None:
    state, settings = StateDir(tmp_path), FeatureSettings()
    apply(state, settings)
    first, second = open_worker(state, settings), open_worker(state, settings)
    first.step(now=NOW)
    EventLog(state.events).append([event()])
    assert (second.step(now=NOW), first.step(now=NOW)) == (0, 1)
    EventLog(state.events).append([event("e2")])
    first.close()
    assert second.step(now=NOW) == 1
    second.close()


def test_nothing_is_set_to_expire_in_redis(tmp_path: Path, redis_url: str) -> None:
    redis.Redis.from_url(redis_url).flushall()
    settings = FeatureSettings(online_store="redis", redis_url=redis_url)
    set_up(Installation(state=StateDir(tmp_path), settings=settings))
    client = redis.Redis.from_url(redis_url)
    keys = list(client.scan_iter())
    assert len(keys) == 5
    assert {client.ttl(key) for key in keys} == {-1}


def test_rows_that_the_store_lost_are_noticed(tmp_path: Path, redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    settings = FeatureSettings(online_store="redis", redis_url=redis_url)
    store = set_up(Installation(state=StateDir(tmp_path), settings=settings))
    client.delete(next(key for key in client.scan_iter() if b"dormant" in key))
    found = {view.view: view.missing for view in check(StateDir(tmp_path), store)}
    lost = {"user_behavior": 1, "user_activity": 1, "user_contacts": 1}
    assert {name: count for name, count in found.items() if count} == lost


def test_a_redis_that_is_away_is_explained(tmp_path: Path) -> None:
    state, settings = StateDir(tmp_path), FeatureSettings(online_store="redis", redis_url="redis://127.0.0.1:1/0")
    fill(state)
    build(state, settings, as_of=NOW)
    apply(state, settings)
    with pytest.raises(FeatureStoreError, match="is it running"):
        materialize(state, open_store(state, settings), limits=MaterializeSettings(patience_s=1))


def test_the_state_directory_can_be_moved(tmp_path: Path) -> None:
    set_up(Installation(state=StateDir(tmp_path / "here"), settings=FeatureSettings()))
    (tmp_path / "here").rename(tmp_path / "there")
    assert sdk_user(StateDir(tmp_path / "there"), ["dormant"])["state"] == ["dormant"]


def test_feasts_own_materialize_and_history_read_the_same_tables(tmp_path: Path) -> None:
    set_up(Installation(state=StateDir(tmp_path), settings=FeatureSettings()))
    program = """
import sys, pandas as pd
from datetime import datetime, UTC
from feast import FeatureStore
store = FeatureStore(repo_path=sys.argv[1])
store.materialize(datetime(1990, 1, 1), datetime(2027, 1, 1), feature_views=["user_activity"])
asked = pd.DataFrame({"user_id": ["dormant"], "event_timestamp": [datetime(2026, 6, 1, tzinfo=UTC)]})
print(store.get_historical_features(asked, ["user_activity:state"]).to_df().state[0])
print(store.get_online_features(["user_activity:state"], [{"user_id": "dormant"}]).to_dict()["state"][0])
"""
    command = [sys.executable, "-c", program, str(tmp_path / "feast")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", timeout=120)
    assert done.stdout.split()[-2:] == ["dormant", "dormant"]


def test_an_empty_log_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"event log .* is empty; fill it with"):
        build(StateDir(tmp_path), FeatureSettings(), as_of=NOW)


def test_a_moment_before_the_first_event_is_explained(tmp_path: Path) -> None:
    fill(StateDir(tmp_path))
    with pytest.raises(DataError, match="no event is before --as-of"):
        build(StateDir(tmp_path), FeatureSettings(), as_of=datetime(1990, 1, 1, tzinfo=UTC))


def test_a_damaged_import_is_explained_and_the_last_tables_stay(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    fill(state)
    build(state, FeatureSettings(), as_of=NOW)
    (state.events / "bad.parquet").write_bytes(b"no Parquet")
    with pytest.raises(DataError, match="cannot read"):
        build(state, FeatureSettings(), as_of=NOW + timedelta(days=1))
    assert pq.read_table(offline_file(state, contract.USER_ACTIVITY))["event_timestamp"][0].as_py() == NOW
    assert sorted(file.name for file in state.features.iterdir()) == [
        ".build",
        "item_neighbors.parquet",
        "item_stats.parquet",
        "user_activity.parquet",
        "user_behavior.parquet",
        "user_contacts.parquet",
    ]


def test_the_tables_have_the_contracts_columns_and_types(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    fill(state)
    summary = build(state, FeatureSettings(), as_of=NOW)
    assert summary.rows == {
        **dict.fromkeys(("user_behavior", "user_activity", "user_contacts"), 3),
        **dict.fromkeys(("item_stats", "item_neighbors"), 2),
    }
    assert summary.states == {"new": 2, "dormant": 1}
    arrow = {
        "string": pa.string(),
        "int64": pa.int64(),
        "float32": pa.float32(),
        "bool": pa.bool_(),
        "list<string>": pa.list_(pa.string()),
        "list<int64>": pa.list_(pa.int64()),
        "list<float32>": pa.list_(pa.float32()),
    }
    for view in (contract.USER_BEHAVIOR, contract.USER_ACTIVITY, contract.ITEM_STATS):
        schema = pq.read_table(offline_file(state, view)).schema
        expected = {view.entity: pa.string(), "event_timestamp": pa.timestamp("us", "UTC")}
        expected |= {feature.name: arrow[feature.dtype] for feature in view.features}
        assert dict(zip(schema.names, schema.types, strict=True)) == expected


def test_before_apply_and_after_a_change_of_store_it_says_what_to_run(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    with pytest.raises(FeatureStoreError, match="run `longtail features apply`"):
        open_store(state, FeatureSettings())
    apply(state, FeatureSettings())
    with pytest.raises(FeatureStoreError, match="other settings"):
        open_store(state, FeatureSettings(online_store="redis"))
    with pytest.raises(FeatureStoreError, match="run `longtail features build`"):
        materialize(state, open_store(state, FeatureSettings()))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", "localhost:6379,db=0,"),
        ("rediss://me:s%40crt@example.org:7000/3", "example.org:7000,db=3,"),
    ],
)
def test_a_redis_url_becomes_feasts_connection_string(url: str, expected: str) -> None:
    found = redis_connection_string(url)
    assert found.startswith(expected)
    assert ("password=s@crt" in found) == ("s%40" in url)
    assert ("ssl=true" in found) == url.startswith("rediss")


@pytest.mark.parametrize("url", ["localhost:6379", "http://x", "redis://x:port/0", "redis://x/name", "redis://:p@/0"])
def test_what_is_no_redis_url_is_refused_without_telling_the_password(url: str) -> None:
    with pytest.raises(FeatureStoreError, match="redis://HOST:PORT/DB") as error:
        store_config(FeatureSettings(online_store="redis", redis_url=url))
    assert ":p@" not in str(error.value)
