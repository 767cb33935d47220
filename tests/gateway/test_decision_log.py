"""The decision log on disk."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feature_repo.decisions.lines import parse
from feature_repo.lifecycle import Lifecycle
from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.decisions.decision_log import JsonlDecisionLog
from serving.gateway.domain import Experiment, ItemId, Query, RankedItem, Ranking, Source, User, UserId
from serving.gateway.errors import Cause, DecisionLogError
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.settings import Sync
from tests.gateway.conftest import Start, until
from tests.gateway.fakes import NOW_S, World, scored

LEAVES_A_WORKER = """
import os

from serving.gateway.running.aside import process_aside

if __name__ == "__main__":
    workers = process_aside()
    print(workers.submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), 9)
"""
CRASHES = """
import asyncio, os, pathlib, sys, time

from serving.gateway.decisions.decision_log import JsonlDecisionLog
from serving.gateway.settings import Sync
from serving.gateway.observing.telemetry import Telemetry
from tests.gateway.test_decision_log import QUERY, ranking

directory = pathlib.Path(sys.argv[1])
log = JsonlDecisionLog(
    directory, capacity=100, segment_bytes=1 << 20, sync=Sync.INTERVAL, write_s=0.5, telemetry=Telemetry()
)

def record(count):
    for place in range(count):
        asyncio.run(log.record(QUERY, ranking(f"d{place}"), timeout_s=1))

record(3)
while not any(file.stat().st_size for file in directory.glob("*.jsonl")):
    time.sleep(0.01)
record(2)
os.kill(os.getpid(), 9)
"""
QUERY = Query(user_id=UserId("пользователь"), surface="home")


def ranking(decision_id: str = "d", *, propensity: float = 0.9) -> Ranking:
    user = User(
        user_id=QUERY.user_id,
        state=Lifecycle.CASUAL,
        days_in_state=1,
        p_alive=None,
        tail_percentile=1,
        last_seen_unix_s=None,
        history=(),
    )
    item = RankedItem(
        item_id=ItemId("i"),
        rank=1,
        score=0.5,
        value=0.4,
        propensity=propensity,
        source=Source.CALLER,
        is_exploration=False,
        terms=(),
    )
    return Ranking(
        decision_id=decision_id,
        at_unix_s=NOW_S,
        user=user,
        items=(item,),
        groups={},
        model=None,
        policy_version="p@1",
        experiments=(Experiment(layer="l", name="e", arm="a", version="1"),),
        dropped={},
        scored=scored([0.5, 0.25]),
        unit="user",
    )


class Logs:
    """Opens logs in one folder and reads back their lines."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.telemetry = Telemetry()
        self.opened: list[JsonlDecisionLog] = []

    def open(self, *, capacity: int = 100, segment_bytes: int = 1 << 20, sync: Sync = Sync.EACH) -> JsonlDecisionLog:
        log = JsonlDecisionLog(
            self.directory, capacity=capacity, segment_bytes=segment_bytes, sync=sync, telemetry=self.telemetry
        )
        self.opened.append(log)
        return log

    def lines(self) -> list[dict[str, Any]]:
        files = sorted(self.directory.glob("*.jsonl"))
        return [line for file in files for line, _ in parse(file.read_bytes().splitlines(), where=file)]

    def lost(self, cause: str) -> float:
        return self.telemetry.registry.get_sample_value("longtail_decisions_lost_total", {"cause": cause}) or 0.0


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    logs = Logs(tmp_path / "decisions")
    yield logs
    for log in logs.opened:
        log.close()


async def test_a_randomised_decision_is_on_disk_when_record_returns(logs: Logs) -> None:
    await logs.open().record(QUERY, ranking(), timeout_s=10)
    (line,) = logs.lines()
    assert (line["decision_id"], line["user_id"], line["surface"]) == ("d", "пользователь", "home")
    assert line["items"][0]["propensity"] == 0.9
    assert line["at_unix_s"] == NOW_S
    assert logs.telemetry.registry.get_sample_value("longtail_decisions_written_total") == 1


async def test_every_decision_is_on_disk_after_close(logs: Logs) -> None:
    log = logs.open()
    for place in range(50):
        await log.record(QUERY, ranking(f"d{place}", propensity=1.0), timeout_s=10)
    log.close()
    assert [line["decision_id"] for line in logs.lines()] == [f"d{place}" for place in range(50)]


async def test_segments_are_closed_at_their_size_and_nothing_is_overwritten(logs: Logs) -> None:
    log = logs.open(segment_bytes=600)
    for place in range(6):
        await log.record(QUERY, ranking(f"d{place}"), timeout_s=10)
    again = logs.open(segment_bytes=600)
    await again.record(QUERY, ranking("after a restart"), timeout_s=10)
    assert len(list(logs.directory.glob("*.jsonl"))) > 2
    assert [line["decision_id"] for line in logs.lines()] == [*(f"d{place}" for place in range(6)), "after a restart"]


async def test_a_disk_that_refuses_is_told_and_counted_and_tried_again(logs: Logs) -> None:
    logs.directory.write_text("a file where the folder should be")
    log = logs.open()
    with pytest.raises(DecisionLogError) as failed:
        await log.record(QUERY, ranking(), timeout_s=10)
    assert failed.value.cause is Cause.DISK
    logs.directory.unlink()
    await log.record(QUERY, ranking("later"), timeout_s=10)
    assert [line["decision_id"] for line in logs.lines()] == ["later"]
    assert logs.lost("disk") == 0, "who waited was told, and recorded another answer"


async def test_without_waiting_a_failing_disk_refuses_draws_keeps_what_it_took_and_writes_it_later(logs: Logs) -> None:
    logs.directory.write_text("a file where the folder should be")
    log = logs.open(sync=Sync.INTERVAL, capacity=2000)
    await log.record(QUERY, ranking("drawn before it was known"), timeout_s=10)

    async def tried_until(refused: bool) -> None:
        for _ in range(1000):
            is_refused = False
            try:
                await log.record(QUERY, ranking("drawn"), timeout_s=10)
            except DecisionLogError as error:
                is_refused = error.cause is Cause.DISK
            if is_refused is refused:
                return
            await asyncio.sleep(0.01)
        pytest.fail(f"never {'refused' if refused else 'taken'}")

    await tried_until(True)
    await log.record(QUERY, ranking("not drawn", propensity=1.0), timeout_s=10)
    logs.directory.unlink()
    await tried_until(False)
    log.close()
    written = [line["decision_id"] for line in logs.lines()]
    assert written[0] == "drawn before it was known"
    assert "not drawn" in written
    assert logs.lost("disk") == 0


async def test_without_waiting_every_decision_is_on_disk_after_close(logs: Logs) -> None:
    log = logs.open(sync=Sync.INTERVAL)
    for place in range(50):
        await log.record(QUERY, ranking(f"d{place}"), timeout_s=0)
    log.close()
    assert [line["decision_id"] for line in logs.lines()] == [f"d{place}" for place in range(50)]
    assert logs.open() and logs.lost("crash") == 0


def test_what_a_crash_took_is_counted_by_the_next_gateway(logs: Logs) -> None:
    killed = subprocess.run([sys.executable, "-c", CRASHES, str(logs.directory)], check=False)
    assert killed.returncode == -signal.SIGKILL
    running = logs.open()
    assert len(logs.lines()) == 3
    assert logs.lost("crash") == 2
    logs.open()
    assert logs.lost("crash") == 2, "the tally of the one that runs is not a crash"
    running.close()


async def test_a_full_queue_refuses_at_once_and_is_counted(logs: Logs, tmp_path: Path) -> None:
    log = logs.open(capacity=1)
    failures = 0
    for place in range(2000):  # much faster than a disk syncs
        try:
            await log.record(QUERY, ranking(f"d{place}", propensity=1.0), timeout_s=10)
        except DecisionLogError as error:
            assert error.cause is Cause.QUEUE_FULL
            failures += 1
    log.close()
    assert failures
    assert logs.lost("queue_full") == failures
    assert len(logs.lines()) == 2000 - failures


async def test_no_time_left_is_a_timeout(logs: Logs) -> None:
    log = logs.open()
    with pytest.raises(DecisionLogError) as failed:
        await log.record(QUERY, ranking(), timeout_s=0)
    assert failed.value.cause is Cause.TIMEOUT
    await log.record(QUERY, ranking("next"), timeout_s=10)


async def test_many_at_once_are_all_written(logs: Logs) -> None:
    log = logs.open()
    await asyncio.gather(*(log.record(QUERY, ranking(f"d{place}"), timeout_s=10) for place in range(100)))
    assert len(logs.lines()) == 100


async def test_answers_stand_in_the_log_as_they_were_given(start: Start, world: World, logs: Logs) -> None:
    world.decisions = logs.open()  # type: ignore[assignment]
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="nobody", channel="push"))
    (line,) = logs.lines()
    assert line["decision_id"] == answer.decision_id
    assert [item["item_id"] for item in line["items"]] == [item.item_id for item in answer.items]
    assert [item["propensity"] for item in line["items"]] == [item.propensity for item in answer.items]
    assert (line["state"], line["channel"], line["model_version"]) == ("new", "push", 7)
    assert line["policy_version"] == answer.policy_version


async def test_a_gateway_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    script = tmp_path / "gateway.py"
    script.write_text(LEAVES_A_WORKER)
    command = [sys.executable, str(script)]
    killed = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    worker = Path("/proc") / killed.stdout.strip()
    await until(lambda: not worker.exists())
