"""Ours beside Feast's own `materialize` into one Redis, and what a user takes there.

python -m feature_repo.benchmarks.materialize [--users 10000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import redis

from feature_repo.benchmarks.redis import redis_server
from feature_repo.benchmarks.tables import AS_OF, table
from feature_repo.contract import USER_ACTIVITY, USER_BEHAVIOR, USER_VIEWS, View
from feature_repo.feast_api import FeatureStore
from feature_repo.layout import StateDir
from feature_repo.online.materialize import materialize
from feature_repo.online.redis_rows import RedisOnline
from feature_repo.online.rows import online_of
from feature_repo.online.store import apply, open_store
from feature_repo.settings import FeatureSettings, MaterializeSettings
from feature_repo.tables.build import offline_file

COMPARED_USERS = 200
MEASURED_USERS = 2_000
COMPACT = ("--hash-max-ziplist-value", "4096")


def main() -> None:
    """Prints, per view, rows per second of both, their ratio, and whether a plain SDK reads the same; then bytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, redis_server(*COMPACT) as url:
        state, settings = StateDir(Path(folder)), FeatureSettings(online_store="redis", redis_url=url)
        apply(state, settings)
        store = open_store(state, settings)
        state.features.mkdir()
        for view in (USER_ACTIVITY, USER_BEHAVIOR):
            compare(state, store, view, redis.Redis.from_url(url), users=given.users, rounds=given.rounds)
    for name, options in (("as Redis comes", ()), ("with hash-max-listpack-value 4096", COMPACT)):
        with redis_server(*options) as url:
            each = ", ".join(f"{view} {size:.0f}" for view, size in user_bytes(url).items())
            say(f"bytes of one user with 50 events of history, {name}: {each}")


def compare(state: StateDir, store: FeatureStore, view: View, client: Any, *, users: int, rounds: int) -> None:
    """Both load the same table into an empty Redis, in turn."""
    pq.write_table(table(view, users), offline_file(state, view))
    limits = MaterializeSettings()

    def feasts() -> None:
        store.materialize(AS_OF - timedelta(days=1), AS_OF + timedelta(days=1), feature_views=[view.name])

    def ours() -> None:
        materialize(state, store, full=True, limits=limits)

    def unchecked() -> None:
        online = online_of(store)
        for batch in pq.ParquetFile(offline_file(state, view)).iter_batches(2_000):
            online.load(view, batch)

    seconds: dict[str, list[float]] = {"feast": [], "ours": [], "one connection, not read back": []}
    read: dict[str, Any] = {}
    for _ in range(rounds):
        for name, load in (("feast", feasts), ("ours", ours), ("one connection, not read back", unchecked)):
            client.flushall()
            seconds[name].append(_timed(load))
            read[name] = _plain_sdk(store, view)
    is_same = all(each == read["feast"] for each in read.values())
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    for name, median in medians.items():
        ratio = medians["feast"] / median
        say(f"{view.name}, {name}: {users / median:,.0f} rows/s, {median / users * 1e6:.1f} µs a row, x {ratio:.1f}")
    say(f"{view.name}: a plain Feast SDK reads {'identical' if is_same else 'DIFFERENT'} values")
    offline_file(state, view).unlink()


def user_bytes(url: str) -> dict[str, float]:
    """What each view adds to the median MEMORY USAGE of a user's key, the total, and the server's growth per user."""
    online, client, sizes = RedisOnline(url), redis.Redis.from_url(url), {"total": 0.0}
    before = _used(client)
    for view in USER_VIEWS:
        for batch in table(view, MEASURED_USERS, full_history=True).to_batches():
            online.load(view, batch)
        now = statistics.median(int(client.memory_usage(key, samples=0) or 0) for key in client.scan_iter(count=1000))
        sizes |= {view.name: now - sizes["total"], "total": now}
    online.close()
    return sizes | {"used_memory": (_used(client) - before) / MEASURED_USERS}


def say(text: str) -> None:
    """A line of the report."""
    print(text, flush=True)  # noqa: T201


def _used(client: Any) -> int:
    return int(client.info("memory")["used_memory"])


def _timed(act: Callable[[], None]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _plain_sdk(store: FeatureStore, view: View) -> dict[str, Any]:
    rows = [{"user_id": f"user-{number:07d}"} for number in range(COMPARED_USERS)]
    names = [f"{view.name}:{name}" for name in view.feature_names()]
    found: dict[str, Any] = store.get_online_features(names, rows).to_dict()
    return found


if __name__ == "__main__":
    main()
