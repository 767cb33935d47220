"""Recorded events on their way into the online store."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from feature_repo.errors import LongtailError
from feature_repo.events import Event
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.online import store
from feature_repo.settings import FeatureSettings
from feature_repo.stream.state import StreamState, memory_file
from feature_repo.stream.updates import open_worker
from serving.gateway.domain import Row, UserId
from serving.gateway.features.feast_features import FeastFeatures
from serving.gateway.features.row_memory import RowMemory
from serving.gateway.feedback.following import Following
from serving.gateway.feedback.recording import Fate, Feedback
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.running.background import Chore
from serving.gateway.serve import make_memory_aside
from tests.gateway.conftest import until


class StepsOf:
    """A follower that has so many events to apply, one step each."""

    def __init__(self, *counts: int) -> None:
        self.counts = list(counts)

    def step(self, *, now: datetime) -> int:
        return self.counts.pop(0) if self.counts else 0


async def test_it_steps_until_it_is_up_to_date() -> None:
    telemetry = Telemetry()
    follower = StepsOf(3, 2, 0, 9)
    following = Following(follower, poll_s=60, telemetry=telemetry)
    following.wake()
    await following.catch_up()
    assert follower.counts == [9]
    assert telemetry.registry.get_sample_value("longtail_events_applied_total") == 5
    assert telemetry.registry.get_sample_value("longtail_event_visible_seconds_count") == 1
    following.close()


async def test_without_a_wake_it_looks_when_the_poll_is_due() -> None:
    follower = StepsOf(1)
    following = Following(follower, poll_s=0.01, telemetry=Telemetry())
    await following.catch_up()
    assert follower.counts == []
    following.close()


SEEDS = """
import sys
from datetime import UTC, datetime
from pathlib import Path

from feature_repo.layout import StateDir
from feature_repo.settings import FeatureSettings
from feature_repo.stream.updates import open_worker
from serving.gateway.serve import make_memory_aside

if __name__ == "__main__":
    worker = open_worker(StateDir(Path(sys.argv[1])), FeatureSettings(), make=make_memory_aside)
    while worker.step(now=datetime.now(UTC)):
        pass
    print("duckdb" in sys.modules)
"""


def test_the_memory_made_aside_is_that_made_here_and_leaves_no_engine_behind(tmp_path: Path) -> None:
    settings = FeatureSettings()
    here, aside = StateDir(tmp_path / "here"), StateDir(tmp_path / "aside")
    event = Event(
        event_id="e", user_id="u", item_id="i", event_type="click", event_time=datetime(2026, 1, 1, tzinfo=UTC)
    )
    for state in (here, aside):
        store.apply(state, settings)
        EventLog(state.events).append([event])
    open_worker(here, settings).step(now=datetime.now(UTC))
    script = tmp_path / "script.py"
    script.write_text(SEEDS)
    done = subprocess.run([sys.executable, script, aside.root], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    made = [StreamState(memory_file(state)) for state in (here, aside)]
    assert made[0].users(["u"])["u"].to_json() == made[1].users(["u"])["u"].to_json()
    assert made[0].items(["i"]) == made[1].items(["i"])


def die(*_: object) -> None:
    os._exit(9)


def test_a_process_that_dies_over_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.gateway.serve.make_memory", die)
    with pytest.raises(LongtailError, match="ended before it was done"):
        make_memory_aside(StateDir(tmp_path), FeatureSettings(), "")


async def test_a_recorded_event_is_read_back_from_the_online_store(tmp_path: Path) -> None:
    state, settings, telemetry = StateDir(tmp_path), FeatureSettings(), Telemetry()
    store.apply(state, settings)
    log = EventLog(state.events)
    worker = open_worker(state, settings)
    worker.step(now=datetime.now(UTC))  # it has read the log once
    following = Following(worker, poll_s=60, telemetry=telemetry)
    feedback = Feedback(log, telemetry, on_recorded=following.wake)
    reader = FeastFeatures(store.open_store(state, settings))
    task = asyncio.create_task(Chore(name="feedback", every_s=0, do=following.catch_up).run())
    now = datetime.now(UTC)
    events = [
        Event(
            event_id=f"e{place}",
            user_id="u",
            item_id=f"i{place}",
            event_type="click",
            event_time=now - timedelta(minutes=place),
        )
        for place in range(3)
    ]
    outcomes = await feedback.record(events, now=now)
    assert {outcome.fate for outcome in outcomes} == {Fate.ACCEPTED}
    await until(lambda: telemetry.registry.get_sample_value("longtail_events_applied_total") == 3)
    rows = await reader.read(UserId("u"), timeout_s=10)
    assert rows["user_behavior"].values["history_item_ids"] == ["i0", "i1", "i2"]
    task.cancel()
    for part in (following, feedback, reader):
        part.close()


@pytest.mark.parametrize("capacity", [0, 1, 2])
def test_the_users_not_read_for_longest_are_forgotten(capacity: int) -> None:
    memory = RowMemory(capacity)
    row = {"user_activity": Row(values={}, event_unix_s=0)}
    for name in ("a", "b", "a", "c"):
        memory.remember(UserId(name), row)
    kept = {name for name in "abc" if memory.recall(UserId(name)) is not None}
    assert kept == {0: set(), 1: {"c"}, 2: {"a", "c"}}[capacity]
