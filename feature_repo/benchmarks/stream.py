"""How many events a second one core streams into Redis, from the log to the rows.

python -m feature_repo.benchmarks.stream [--events 20000] [--users 5000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from feature_repo.benchmarks.materialize import say
from feature_repo.benchmarks.redis import redis_server
from feature_repo.events import Event
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.settings import FeatureSettings
from feature_repo.stream.updates import open_worker

KINDS = ("view", "view", "click", "purchase", "exposure", "contact")


def main() -> None:
    """Users are drawn with a heavy tail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rates = [one_round(given.events, given.users, seed) for seed in range(given.rounds)]
    wall, cpu = (statistics.median(each) for each in zip(*rates, strict=True))
    say(f"{wall:,.0f} events/s by the clock, {cpu:,.0f} per second of the worker's CPU (medians of {len(rates)})")


def one_round(events: int, users: int, seed: int) -> tuple[float, float]:
    """The log is filled before the clock starts; the worker has started and read it once."""
    with tempfile.TemporaryDirectory() as folder, redis_server() as url:
        state, settings = StateDir(Path(folder)), FeatureSettings(online_store="redis", redis_url=url)
        worker, log = open_worker(state, settings), EventLog(state.events)
        worker.step(now=datetime.now(UTC))
        made = made_up(events, users, seed)
        for start in range(0, events, 1_000):
            log.append(made[start : start + 1_000])
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        while worker.step(now=datetime.now(UTC)):
            pass
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        worker.close()
        return events / wall_s, events / cpu_s


def made_up(events: int, users: int, seed: int) -> list[Event]:
    """The last 90 days of users with a heavy tail."""
    random, now = np.random.default_rng(seed), datetime.now(UTC)
    whom = np.minimum(random.zipf(1.3, events), users)
    ages_s = random.integers(0, 90 * 86_400, events)
    return [
        Event(
            event_id=f"e{number}",
            user_id=f"user-{whom[number]}",
            item_id=f"i{random.integers(0, 2_000)}",
            event_type=KINDS[number % len(KINDS)],
            event_time=now - timedelta(seconds=int(ages_s[number])),
            surface="push",
        )
        for number in range(events)
    ]


if __name__ == "__main__":
    main()
