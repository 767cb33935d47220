"""What training reads of the event log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from feature_repo.errors import LongtailError
from feature_repo.events import Event
from feature_repo.log.event_log import EventLog
from feature_repo.settings import FeatureSettings
from training.benchmarks import log as log_benchmark
from training.log import log_reader
from training.log.engagements import from_rows
from training.log.log_reader import open_log

START = datetime(2026, 1, 1, tzinfo=UTC)


def event(number: int, user: str, item: str, kind: str, after_s: float) -> Event:
    at = START + timedelta(seconds=after_s)
    return Event(event_id=str(number), user_id=user, item_id=item, event_type=kind, event_time=at)


def made_up(count: int) -> list[Event]:
    """Few users, items and seconds, so that most coincide; ids of more than ASCII."""
    rng = np.random.default_rng(0)
    users, items, kinds = ["b", "a", "ü", "Z"], ["x", "é", "10", "9", "y"], ["view", "click", "return"]
    return [
        event(number, str(rng.choice(users)), str(rng.choice(items)), str(rng.choice(kinds)), rng.integers(0, 30) / 2)
        for number in range(count)
    ]


def test_events_come_by_user_and_time_and_the_same_within_a_second_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "ROWS_AT_ONCE", 7)  # so that there are many batches
    events = made_up(200)
    EventLog(tmp_path).append(events)
    log = open_log(tmp_path, FeatureSettings()).engagements()

    first: dict[tuple[str, str, str, int], float] = {}
    for each in events:
        if each.event_type != "return":  # of negative weight
            second = each.event_time.timestamp()
            key = (each.user_id, each.item_id, each.event_type, int(second))
            first[key] = min(second, first.get(key, np.inf))
    expected = from_rows(sorted((user, item, kind, second) for (user, item, kind, _), second in first.items()))
    assert len(log) == len(expected) < 200
    for name in ("user_ids", "item_ids", "event_types", "user", "item", "event_type", "time_us"):
        np.testing.assert_array_equal(getattr(log, name), getattr(expected, name))
        assert getattr(log, name).dtype == getattr(expected, name).dtype


def test_a_log_without_an_engagement_says_what_to_do(tmp_path: Path) -> None:
    EventLog(tmp_path).append([event(0, "a", "x", "return", 0.0)])
    with pytest.raises(LongtailError, match="no engagement to learn from"):
        open_log(tmp_path, FeatureSettings()).engagements()


def test_both_ways_of_the_benchmark_read_the_same(tmp_path: Path) -> None:
    log_benchmark.made_up(tmp_path, 2_000)
    reads = [log_benchmark.read(tmp_path, way, "200MB") for way in log_benchmark.WAYS]
    assert reads[0].digest == reads[1].digest
