"""What an incremental build costs beside a full one.

python -m feature_repo.benchmarks.incremental [--events 5000000] [--share 0.01] [--rounds 3] [--threads 2]

Each round: a full build, new events of the days before, an incremental build at the same moment, more new events,
an incremental build a day later.
"""

# ruff: noqa: S608  nothing but own paths go into the SQL
from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

import duckdb

from feature_repo.benchmarks.build import AS_OF, write_log
from feature_repo.benchmarks.made_log import DAYS, write_events
from feature_repo.benchmarks.materialize import say
from feature_repo.contract import ITEM_NEIGHBORS
from feature_repo.layout import StateDir
from feature_repo.settings import FeatureSettings
from feature_repo.tables.build import BUILT, build
from feature_repo.tables.incremental import build_incremental
from feature_repo.tabular import literal

KEPT_DAYS: Final = 7.0  # of item_neighbors
FOLLOWED: Final = tuple(view for view in BUILT if view is not ITEM_NEIGHBORS)


def main() -> None:
    """Prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--share", type=float, default=0.01, help="new events, of those there are")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    rounds = []
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(one_round(StateDir(Path(folder)), given.events, given.share, given.threads))
    every, followed, same, later = (Cost.median(each) for each in zip(*rounds, strict=True))
    say(f"{given.events:,} events, {given.share:.0%} new, {given.threads} threads, medians of {given.rounds}")
    say(f"full build: {every}; without item_neighbors, which an incremental build keeps: {followed}")
    for name, cost in (("at the same moment", same), ("a day later", later)):
        clock = f"{cost.clock_s / every.clock_s:.0%} and {cost.clock_s / followed.clock_s:.0%} by the clock"
        cpu = f"{cost.cpu_s / every.cpu_s:.0%} and {cost.cpu_s / followed.cpu_s:.0%} of the CPU"
        say(f"incremental {name}: {cost}, {clock}, {cpu}; {cost.read:.0%} of the events are the changed users'")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a build; `read` is the share of events that are of users whose events it reads."""

    clock_s: float
    cpu_s: float
    read: float = 1.0

    def __str__(self) -> str:
        return f"{self.clock_s:.1f} s (CPU {self.cpu_s:.1f} s)"

    @classmethod
    def median(cls, rounds: Sequence[Cost]) -> Cost:
        """Of each number."""
        clocks, cpus, reads = zip(*((one.clock_s, one.cpu_s, one.read) for one in rounds), strict=True)
        return cls(clock_s=statistics.median(clocks), cpu_s=statistics.median(cpus), read=statistics.median(reads))


def one_round(state: StateDir, events: int, share: float, threads: int) -> tuple[Cost, Cost, Cost, Cost]:
    settings = FeatureSettings(build_threads=threads, neighbors_every_days=KEPT_DAYS)
    write_log(state, events)
    followed = timed(partial(build, state, settings, as_of=AS_OF, wanted=FOLLOWED))
    every = timed(partial(build, state, settings, as_of=AS_OF))
    costs, new, days = [], int(events * share), (DAYS - 2, DAYS + 30)
    for number, later in enumerate((timedelta(0), timedelta(days=1))):
        file = state.events / f"new-{number}.parquet"
        write_events(file, new, first=events + number * new, days=days)
        cost = timed(partial(build_incremental, state, settings, as_of=AS_OF + later))
        costs.append(replace(cost, read=share_of_users(state.events, file)))
    return every, followed, costs[0], costs[1]


def timed(work: Callable[[], object]) -> Cost:
    started = time.perf_counter(), time.process_time()
    work()
    return Cost(clock_s=time.perf_counter() - started[0], cpu_s=time.process_time() - started[1])


def share_of_users(events: Path, file: Path) -> float:
    """The share of all events whose user has one in the file."""
    every, theirs = (f"read_parquet({literal(str(path))})" for path in (events / "*.parquet", file))
    query = f"SELECT avg((user_id IN (SELECT user_id FROM {theirs}))::INTEGER) FROM {every}"
    with duckdb.connect() as con:
        row = con.execute(query).fetchone()
    assert row is not None
    return float(row[0])


if __name__ == "__main__":
    main()
