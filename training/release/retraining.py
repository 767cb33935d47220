"""When a new model is due, and that only one is made at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import ibis

from feature_repo.errors import LongtailError
from feature_repo.log.event_log import EventLog
from feature_repo.settings import FeatureSettings
from training.export import serving_contract


@dataclass(frozen=True, kw_only=True)
class News:
    """What came in since the version in service was trained. `since` is missing when nothing is in service."""

    events: int  # engagements
    since: datetime | None

    def __str__(self) -> str:
        """
        >>> str(News(events=3, since=None))
        '3 engagements, and no model in service'
        """
        if self.since is None:
            return f"{self.events} engagements, and no model in service"
        return (
            f"{self.events} engagements since {self.since:%Y-%m-%d %H:%M}, where the log of the model in service ended"
        )


def news_since(events: Path, in_service: Path | None, features: FeatureSettings) -> News:
    """Counts the engagements after the log that the SavedModel in service was split from, or all without one.

    What was shown or sent teaches nothing by itself, and there is far more of it.
    """
    since = None
    if in_service is not None:
        contract = serving_contract.read_contract(in_service)
        since = datetime.fromisoformat(contract.get("log_end") or contract["training_window"]["end"])
    con = ibis.duckdb.connect()
    log = EventLog(events).table(con)
    counted = log if since is None else log.filter(log.event_time >= since)
    by_type = counted.group_by("event_type").agg(events=counted.count()).execute()
    of_weight = [features.weight(kind) > 0 for kind in by_type["event_type"]]
    return News(events=int(by_type["events"][of_weight].sum()), since=since)


@contextmanager
def alone(training: Path, work: str = "retraining") -> Iterator[int]:
    """Raises LongtailError while another process is inside; a killed one leaves nothing to clean up.

    Gives the descriptor of the lock: a process that inherits it is inside too.
    """
    training.mkdir(parents=True, exist_ok=True)
    with (training / f".{work}.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            process = lock.read().strip() or "unknown"
            raise LongtailError(f"another {work} is at work (process {process}, or a step it began)") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()
