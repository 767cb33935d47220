"""How many events a second a build takes, in how much memory, and how that grows.

python -m feature_repo.benchmarks.build [--events 5000000] [--doublings 2] [--rounds 3] [--threads 2] [--memory 8GB]

Beside it, in the same rounds, the least that any build must do: read the log once and group it by user and item.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import duckdb

from feature_repo.benchmarks.made_log import write_events, write_items
from feature_repo.benchmarks.materialize import say
from feature_repo.contract import ITEM_STATS, USER_ACTIVITY, USER_BEHAVIOR
from feature_repo.layout import StateDir
from feature_repo.settings import FeatureSettings
from feature_repo.tables.build import build
from feature_repo.tabular import literal

VIEWS: Final = (USER_BEHAVIOR, USER_ACTIVITY, ITEM_STATS)
AS_OF: Final = datetime(2027, 2, 1, tzinfo=UTC)
FLOOR: Final = "SELECT count(*) FROM (SELECT user_id, item_id, count(*), max(event_time) FROM {log} GROUP BY ALL)"


@dataclass(frozen=True, kw_only=True)
class Round:
    """One build in a process of its own."""

    build_s: float
    floor_s: float
    peak_bytes: int


def main() -> None:
    """Prints a line for each size of the log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--doublings", type=int, default=2, help="how often the number of events is doubled")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="8GB", help="features.build_memory; the process itself comes on top")
    given = parser.parse_args()
    settings = FeatureSettings(build_threads=given.threads, build_memory=given.memory)
    say(f"{', '.join(view.name for view in VIEWS)}; {given.threads} threads, {given.memory}, medians of {given.rounds}")
    before_s = 0.0
    for events in (given.events << doubling for doubling in range(given.doublings + 1)):
        rounds = measure(events, settings, given.rounds)
        build_s, floor_s = (
            statistics.median(each) for each in zip(*((r.build_s, r.floor_s) for r in rounds), strict=True)
        )
        growth = f", {build_s / before_s:.2f} × the half" if before_s else ""
        peak_gb = max(each.peak_bytes for each in rounds) / 1e9
        say(
            f"{events:>12,} events: {events / build_s:>9,.0f} events/s ({build_s:.1f} s{growth}), "
            f"{build_s / floor_s:.1f} × reading and grouping alone, at most {peak_gb:.1f} GB"
        )
        before_s = build_s


def measure(events: int, settings: FeatureSettings, rounds: int) -> list[Round]:
    """The log is made before the clock starts; each round is a new process, so that its memory is its own."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, context.Pool(1, maxtasksperchild=1) as processes:
        state = StateDir(Path(folder))
        processes.apply(write_log, (state, events))
        return [processes.apply(one_round, (state, settings)) for _ in range(rounds)]


def write_log(state: StateDir, events: int) -> None:
    write_events(state.events / "made.parquet", events)
    write_items(state.items / "items.parquet")


def one_round(state: StateDir, settings: FeatureSettings) -> Round:
    """In its own process. A small build has imported what a build imports before the clock starts."""
    warnings.simplefilter("ignore", DeprecationWarning)
    with tempfile.TemporaryDirectory() as folder:
        small = StateDir(Path(folder))
        write_log(small, 1_000)
        build(small, settings, as_of=AS_OF, wanted=VIEWS)
    started = time.perf_counter()
    build(state, settings, as_of=AS_OF, wanted=VIEWS)
    build_s = time.perf_counter() - started
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Round(build_s=build_s, floor_s=read_and_group(state, settings), peak_bytes=peak_bytes)


def read_and_group(state: StateDir, settings: FeatureSettings) -> float:
    with duckdb.connect() as con:
        con.execute(f"SET threads = {settings.build_threads}; SET enable_progress_bar = false")
        started = time.perf_counter()
        con.execute(FLOOR.format(log=literal(str(state.events / "made.parquet")))).fetchall()
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
