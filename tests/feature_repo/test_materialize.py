"""A materialization that is disturbed: what it says, what is lost (nothing) and how it goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast import FeatureStore

from feature_repo.benchmarks.materialize import COMPACT, user_bytes
from feature_repo.benchmarks.tables import table
from feature_repo.contract import USER_BEHAVIOR, USER_RETURNS
from feature_repo.definitions import feature_view
from feature_repo.layout import StateDir
from feature_repo.online import redis_pipe
from feature_repo.online.loading import CHUNK_ROWS, Rate, one_at_a_time
from feature_repo.online.materialize import check_view, materialize, memory_advice
from feature_repo.online.store import FeatureStoreError, apply, open_store
from feature_repo.settings import FeatureSettings, MaterializeSettings
from feature_repo.tables.build import offline_file
from tests.feature_repo.world import NOW
from tests.redis_server import RedisServer, redis_process

ROWS = 5 * CHUNK_ROWS
HASTY = MaterializeSettings(connections=1, patience_s=0.2)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    monkeypatch.setattr(redis_pipe, "TIMEOUT_S", 0.2)
    with redis_process(tmp_path) as started:
        yield started


@pytest.fixture
def store(tmp_path: Path, server: RedisServer) -> FeatureStore:
    state = StateDir(tmp_path)
    settings = FeatureSettings(online_store="redis", redis_url=server.url)
    columns = {
        "user_id": pa.array([f"u{number}" for number in range(ROWS)]),
        "event_timestamp": pa.array([NOW] * ROWS, pa.timestamp("us", "UTC")),
        "p_return": pa.array(np.linspace(0, 1, ROWS, dtype=np.float32)),
        "p_return_contacted": pa.nulls(ROWS, pa.float32()),
        "horizon_days": pa.array(np.full(ROWS, 7, np.float32)),
        "basis": pa.array(["bgnbd"] * ROWS),
        "returns_model_version": pa.array(np.ones(ROWS, np.int64)),
    }
    state.features.mkdir(parents=True)
    pq.write_table(pa.table(columns), offline_file(state, USER_RETURNS))
    apply(state, settings)
    return open_store(state, settings)


class After:
    """A report that does something once, after the second chunk."""

    def __init__(self, act: object) -> None:
        self.act, self.calls = act, 0

    def __call__(self, _step: str, _fraction: float) -> None:
        self.calls += 1
        if self.calls == 2:
            assert callable(self.act)
            self.act()


def test_a_store_that_freezes_is_waited_for(tmp_path: Path, store: FeatureStore, server: RedisServer) -> None:
    def freeze() -> None:
        server.process.send_signal(signal.SIGSTOP)
        threading.Timer(0.5, server.process.send_signal, [signal.SIGCONT]).start()

    patient = MaterializeSettings(connections=2, patience_s=20)
    (done,) = materialize(StateDir(tmp_path), store, limits=patient, report=After(freeze))
    assert (done.written, done.kept, done.resumed_at) == (ROWS, 0, 0)


def test_after_a_full_store_was_given_memory_the_load_goes_on(
    tmp_path: Path, store: FeatureStore, server: RedisServer
) -> None:
    client = redis.Redis.from_url(server.url)
    fill = After(lambda: client.config_set("maxmemory", 1))
    with pytest.raises(FeatureStoreError, match=r"rows are loaded, then: Redis is full.*goes on from there"):
        materialize(StateDir(tmp_path), store, limits=HASTY, report=fill)
    client.config_set("maxmemory", 0)
    (done,) = materialize(StateDir(tmp_path), store)
    assert done.written == ROWS
    assert 2 * CHUNK_ROWS <= done.resumed_at < ROWS
    (again,) = materialize(StateDir(tmp_path), store)
    assert again.resumed_at == 0


def test_a_store_that_was_killed_and_lost_its_rows_is_loaded_anew(
    tmp_path: Path, store: FeatureStore, server: RedisServer
) -> None:
    with pytest.raises(FeatureStoreError, match=r"user_returns: \d+ of 10000 rows are loaded.*is it running"):
        materialize(StateDir(tmp_path), store, limits=HASTY, report=After(server.process.kill))
    server.process.wait()
    port = urlsplit(server.url).port
    assert port is not None
    with redis_process(tmp_path, port):
        (done,) = materialize(StateDir(tmp_path), store)
        assert (done.written, done.resumed_at) == (ROWS, 0)
        assert check_view(StateDir(tmp_path), store, USER_RETURNS).agrees


def test_a_second_materialization_is_refused(tmp_path: Path, store: FeatureStore) -> None:
    with one_at_a_time(StateDir(tmp_path)), pytest.raises(FeatureStoreError, match=r"another .* \(process \d+\)"):
        materialize(StateDir(tmp_path), store)


@pytest.mark.parametrize(("longest", "advises"), [("64", True), ("4096", False)])
def test_a_redis_that_keeps_users_as_hash_tables_is_told_of(tmp_path: Path, longest: str, advises: bool) -> None:
    state = StateDir(tmp_path)
    state.features.mkdir()
    with redis_process(tmp_path, options=("--hash-max-ziplist-value", longest)) as server:
        settings = FeatureSettings(online_store="redis", redis_url=server.url)
        apply(state, settings)
        store = open_store(state, settings)
        pq.write_table(table(USER_BEHAVIOR, 60, full_history=True), offline_file(state, USER_BEHAVIOR))
        materialize(state, store)
        advice = memory_advice(state, store)
    assert ("50 of 50 users" in advice and "hash-max-listpack-value" in advice) == advises
    assert bool(advice) == advises


def test_a_user_of_50_engagements_takes_two_kilobytes_at_most(tmp_path: Path) -> None:
    with redis_process(tmp_path, options=COMPACT) as server:
        assert user_bytes(server.url)["total"] <= 2_000


def test_tables_of_another_contract_are_not_loaded(tmp_path: Path, store: FeatureStore) -> None:
    store.apply(feature_view(replace(USER_RETURNS, features=USER_RETURNS.features[1:])))
    with pytest.raises(FeatureStoreError, match=r"differs in p_return; run `longtail features build`"):
        materialize(StateDir(tmp_path), store)


def test_a_rate_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("feature_repo.online.loading.time.sleep", slept.append)
    monkeypatch.setattr("feature_repo.online.loading.time.monotonic", lambda: 0.0)
    rate = Rate(1000)
    for _ in range(3):
        rate.wait_for(500)
    assert slept == [0.0, 0.5, 1.0]
