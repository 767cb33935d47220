"""What an incremental build costs beside a full one.

python -m feature_repo.benchmarks.incremental [--events 5000000] [--share 0.01] [--rounds 3] [--threads 2]

Each round: a full build, new events of the days before, an incremental build at the same moment, more new events,
an incremental build a day later.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from feature_repo.benchmarks.build import AS_OF, write_log
from feature_repo.benchmarks.made_log import DAYS, write_events
from feature_repo.benchmarks.materialize import say
from feature_repo.build import BUILT, build
from feature_repo.contract import ITEM_NEIGHBORS
from feature_repo.incremental import build_incremental
from feature_repo.layout import StateDir
from feature_repo.settings import FeatureSettings

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
    every, followed, same, later = (statistics.median(each) for each in zip(*rounds, strict=True))
    say(f"{given.events:,} events, {given.share:.0%} new, {given.threads} threads, medians of {given.rounds}")
    say(f"full build: {every:.1f} s; without item_neighbors, which an incremental build keeps: {followed:.1f} s")
    for name, seconds in (("at the same moment", same), ("a day later", later)):
        say(f"incremental {name}: {seconds:.1f} s, {seconds / every:.0%} and {seconds / followed:.0%}")


def one_round(state: StateDir, events: int, share: float, threads: int) -> tuple[float, float, float, float]:
    settings = FeatureSettings(build_threads=threads, neighbors_every_days=KEPT_DAYS)
    write_log(state, events)
    followed_s = timed(partial(build, state, settings, as_of=AS_OF, wanted=FOLLOWED))
    every_s = timed(partial(build, state, settings, as_of=AS_OF))
    seconds, new, days = [], int(events * share), (DAYS - 2, DAYS + 30)
    for number, later in enumerate((timedelta(0), timedelta(days=1))):
        write_events(state.events / f"new-{number}.parquet", new, first=events + number * new, days=days)
        seconds.append(timed(partial(build_incremental, state, settings, as_of=AS_OF + later)))
    return every_s, followed_s, seconds[0], seconds[1]


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
