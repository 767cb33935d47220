"""What features cost in time, memory and disk: per million events, and per million users.

python -m feature_repo.benchmarks.costs [--events 1000000] [--threads 2] [--memory 8GB] [--rounds 1]

Prints the table of docs/features.md, scaled from the size that is measured: a made-up log with heavy tails, 20 events a
user. The log is made before any clock starts; Feast is open before loading is timed, which reads every row back.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq
import redis

from feature_repo.benchmarks.build import AS_OF, write_log
from feature_repo.benchmarks.materialize import COMPACT, say
from feature_repo.benchmarks.redis import redis_server
from feature_repo.contract import ITEM_NEIGHBORS, USER_ACTIVITY, USER_BEHAVIOR, USER_CONTACTS, View
from feature_repo.events import Event
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.online.materialize import materialize
from feature_repo.online.store import apply, open_store
from feature_repo.settings import FeatureSettings
from feature_repo.tables.build import BUILT, build, offline_file

LOADED: Final = (USER_BEHAVIOR, USER_ACTIVITY, USER_CONTACTS)
BUILDS: Final = {
    "`features build`, all views": BUILT,
    "the same without `item_neighbors`": tuple(view for view in BUILT if view is not ITEM_NEIGHBORS),
}
MILLION: Final = 1_000_000
APPENDED: Final = 20_000  # events, to see what one takes in a segment


@dataclass(frozen=True, kw_only=True)
class Built:
    """One build in a process of its own; `idle_bytes` were taken after a build of nearly nothing."""

    seconds: float
    cpu_s: float
    peak_bytes: int
    idle_bytes: int


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The user views of every user in one online store; `cpu_s` are ours, without the store's own."""

    seconds: float
    cpu_s: float
    stored_bytes: int


def main() -> None:
    """Prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=MILLION)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="8GB", help="features.build_memory; the process itself comes on top")
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    settings = FeatureSettings(build_threads=given.threads, build_memory=given.memory)
    context, busy = multiprocessing.get_context("spawn"), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, context.Pool(1, maxtasksperchild=1) as processes:
        state = StateDir(Path(folder))
        processes.apply(write_log, (state, given.events))
        built = {
            name: [processes.apply(one_build, (state, settings, views)) for _ in range(given.rounds)]
            for name, views in reversed(BUILDS.items())  # the last leaves every table
        }
        users = pq.read_metadata(offline_file(state, USER_ACTIVITY)).num_rows
        say(f"{given.events:,} events, {users:,} users, {given.threads} threads, medians of {given.rounds}")
        say(f"load average of the machine before: {busy:.1f}, with the builds: {os.getloadavg()[0]:.1f}")
        say("\n| per million events | time | CPU | memory or disk |\n|---|---|---|---|")
        for name in BUILDS:
            say_built(name, built[name], given.events)
        for name, stored in disk_bytes(state, given.events).items():
            say(f"| {name} | – | – | {stored / 1e6:,.0f} MB |")
        say("\n| per million users | time | CPU | memory or disk |\n|---|---|---|---|")
        for view in LOADED:
            stored = offline_file(state, view).stat().st_size * MILLION / users
            say(f"| `{view.name}.parquet` | – | – | {stored / 1e6:,.0f} MB |")
        for name, loads in loaded(state, given.rounds).items():
            seconds = statistics.median(load.seconds for load in loads) * MILLION / users
            cpu_s = statistics.median(load.cpu_s for load in loads) * MILLION / users
            stored = statistics.median(load.stored_bytes for load in loads) * MILLION / users
            what = f"`features materialize` of these, {name}"
            say(f"| {what} | {seconds:,.0f} s | {cpu_s:,.0f} s | {stored / 1e9:.2f} GB |")


def say_built(name: str, rounds: Sequence[Built], events: int) -> None:
    seconds = statistics.median(each.seconds for each in rounds) * MILLION / events
    cpu_s = statistics.median(each.cpu_s for each in rounds) * MILLION / events
    grown = max(each.peak_bytes - each.idle_bytes for each in rounds) * MILLION / events
    idle = max(each.idle_bytes for each in rounds)
    memory = f"{grown / 1e9:.2f} GB, and {idle / 1e9:.2f} GB for the process"
    say(f"| {name} | {seconds:.1f} s | {cpu_s:.1f} s | {memory} |")


def one_build(state: StateDir, settings: FeatureSettings, views: tuple[View, ...]) -> Built:
    """In its own process, so that its memory is its own."""
    warnings.simplefilter("ignore", DeprecationWarning)
    with tempfile.TemporaryDirectory() as folder:
        small = StateDir(Path(folder))
        write_log(small, 1_000)
        build(small, settings, as_of=AS_OF, wanted=views)
    idle_bytes = peak_bytes()
    seconds, cpu_s = timed(lambda: build(state, settings, as_of=AS_OF, wanted=views))
    return Built(seconds=seconds, cpu_s=cpu_s, peak_bytes=peak_bytes(), idle_bytes=idle_bytes)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and this process's CPU, which other work on the machine disturbs less."""
    started, cpu_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - cpu_s


def peak_bytes() -> int:
    """Of this process up to now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def disk_bytes(state: StateDir, events: int) -> dict[str, float]:
    """Of a million events. A segment's lines are measured on the first of them."""
    imported = state.events / "made.parquet"
    with tempfile.TemporaryDirectory() as folder:
        batch = next(pq.ParquetFile(imported).iter_batches(APPENDED))
        log = EventLog(Path(folder))
        log.append([Event(**row) for row in batch.to_pylist()])
        a_line = sum(file.stat().st_size for file in log.segment_files()) / batch.num_rows
    tables = sum(offline_file(state, view).stat().st_size for view in BUILT)
    return {
        "event log, imported (Parquet)": imported.stat().st_size * MILLION / events,
        "event log, recorded (JSON lines)": a_line * MILLION,
        "feature tables, all views": tables * MILLION / events,
    }


def loaded(state: StateDir, rounds: int) -> dict[str, list[Loaded]]:
    """Into stores that are empty each time."""
    found: dict[str, list[Loaded]] = {}
    for _ in range(rounds):
        with redis_server(*COMPACT) as url:
            settings, client = FeatureSettings(online_store="redis", redis_url=url), redis.Redis.from_url(url)
            empty = int(client.info("memory")["used_memory"])
            with only_users(state) as apart:
                seconds, cpu_s = timed_load(apart, settings)
            stored = int(client.info("memory")["used_memory"]) - empty
            found.setdefault("Redis", []).append(Loaded(seconds=seconds, cpu_s=cpu_s, stored_bytes=stored))
        with only_users(state) as apart:
            seconds, cpu_s = timed_load(apart, FeatureSettings())
            stored = sum(file.stat().st_size for file in apart.feast.glob("online.db*"))
            found.setdefault("SQLite", []).append(Loaded(seconds=seconds, cpu_s=cpu_s, stored_bytes=stored))
    return found


@contextmanager
def only_users(state: StateDir) -> Iterator[StateDir]:
    """A state directory with the tables of the user views alone."""
    with tempfile.TemporaryDirectory() as folder:
        apart = StateDir(Path(folder))
        apart.features.mkdir()
        for view in LOADED:
            offline_file(apart, view).symlink_to(offline_file(state, view))
        yield apart


def timed_load(state: StateDir, settings: FeatureSettings) -> tuple[float, float]:
    apply(state, settings)
    store = open_store(state, settings)
    return timed(lambda: materialize(state, store, full=True))


if __name__ == "__main__":
    main()
