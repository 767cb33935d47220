"""What the gateway writes to its log: lines for machines, slow calls, and never a person."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import feedback_pb2
from serving.gateway.errors import Cause, FeaturesError
from serving.gateway.observing.logs import JsonFormatter, TextFormatter
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.observing.trail import SlowRequests, Trail
from tests.gateway.conftest import Start, until
from tests.gateway.fakes import World

MARY = "mary.jones@example.com"


class Written:
    """The log as JSON lines."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(JsonFormatter())

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    def lines(self, message: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in lines if line["message"] == message]


@pytest.fixture
def log() -> Iterator[Written]:
    written, logger = Written(), logging.getLogger("serving.gateway")
    logger.addHandler(written.handler)
    logger.setLevel(logging.DEBUG)
    yield written
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(written.handler)


async def test_a_slow_call_is_written_with_its_decision_and_stages(start: Start, world: World, log: Written) -> None:
    telemetry = Telemetry(SlowRequests(100, kept=10))
    running = await start(world, telemetry=telemetry)
    await running.activation.RankItems(pb.RankItemsRequest(user_id=MARY))
    assert log.lines("slow request") == []
    world.features.delay_s = 0.15
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id=MARY))
    (line,) = log.lines("slow request")
    assert (line["decision_id"], line["method"], line["code"]) == (answer.decision_id, "RankItems", "OK")
    assert line["level"] == "WARNING"
    assert line["total_ms"] >= line["stages_ms"]["features"] >= 100
    assert set(line["stages_ms"]) == {"features", "candidates", "score", "policy", "decision_log"}
    assert running.metric("longtail_slow_requests_total", method="RankItems") == 1
    assert telemetry.slow.kept[-1]["decision_id"] == answer.decision_id


async def test_a_call_whose_caller_gave_up_says_where_the_time_went(start: Start, world: World, log: Written) -> None:
    world.features.delay_s = 30
    running = await start(world, telemetry=Telemetry(SlowRequests(50, kept=10)))
    call = running.activation.RankItems(pb.RankItemsRequest(user_id=MARY), timeout=60)
    await until(lambda: world.features.asked)
    await asyncio.sleep(0.1)
    call.cancel()
    await until(lambda: log.lines("slow request"))
    (line,) = log.lines("slow request")
    assert line["code"] == "CANCELLED"
    assert line["stages_ms"]["features"] >= 50


def test_only_so_many_are_kept_and_so_many_a_second_are_said(log: Written) -> None:
    now_s = 0.0
    slow = SlowRequests(1, kept=20, clock=lambda: now_s)
    for place in range(50):
        slow.note(Trail(method=f"m{place}"), code="OK", total_ms=2)
    assert len(log.lines("slow request")) == 5
    now_s = 1.0
    slow.note(Trail(method="late"), code="OK", total_ms=2)
    assert log.lines("slow request")[-1]["unsaid_before"] == 45
    slow.write_all()
    assert [line["method"] for line in log.lines("slow request, kept")][-2:] == ["m49", "late"]
    assert len(log.lines("slow request, kept")) == 20
    assert not SlowRequests(0, kept=1).note(Trail(method="m"), code="OK", total_ms=1e9)


async def test_no_line_names_a_person_whatever_happens(start: Start, world: World, log: Written) -> None:
    running = await start(world, telemetry=Telemetry(SlowRequests(0.001, kept=10)), permits=2)
    event = feedback_pb2.Event(event_id="e", user_id=MARY, item_id=MARY, event_type="click")
    requests = [
        pb.RankItemsRequest(user_id=MARY),
        pb.RankItemsRequest(user_id=MARY, limit=0),
        pb.RankItemsRequest(user_id=MARY, candidate_item_ids=[MARY], idempotency_key=MARY, surface="home"),
    ]
    for broken in (False, True):
        world.features.error = FeaturesError(Cause.UNAVAILABLE, "down") if broken else None
        for request in requests:
            try:
                await running.activation.RankItems(request)
            except grpc.aio.AioRpcError:
                continue
        await running.activation.GetUserState(pb.GetUserStateRequest(user_id=MARY))
        await running.feedback.RecordEvents(feedback_pb2.RecordEventsRequest(events=[event]))
    assert len(log.lines("answered")) == 10
    assert log.lines("slow request")
    assert "mary" not in log.text


def test_a_line_of_text_has_the_facts_too() -> None:
    record = logging.makeLogRecord(
        {"msg": "slow request", "name": "n", "levelname": "WARNING", "facts": {"code": "OK"}}
    )
    assert TextFormatter().format(record).endswith("WARNING n: slow request code=OK")


def test_an_exception_is_one_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.makeLogRecord({"msg": "bug", "exc_info": True})
        record.exc_info = sys.exc_info()
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError: two\nlines" in json.loads(line)["exception"]


async def test_an_answer_of_a_stream_is_looked_at_by_itself(start: Start, world: World, log: Written) -> None:
    world.features.delay_s = 0.06
    running = await start(world, telemetry=Telemetry(SlowRequests(50, kept=10)))
    requests = [pb.RankItemsRequest(user_id=user) for user in ("active", "casual")]
    answers = [answer async for answer in running.activation.BatchRankItems(iter(requests))]
    lines = log.lines("slow request")
    assert [line["decision_id"] for line in lines] == [answer.decision_id for answer in answers]
    assert all(line["method"] == "BatchRankItems" and line["stages_ms"]["features"] >= 50 for line in lines)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_process_logs_in_the_format_that_is_set(log_format: str) -> None:
    script = (
        "import logging; from serving.gateway.observing import logs; "
        f"logs.configure({log_format!r}, 'info'); logging.getLogger('x').info('told %s', 'so'); "
        "logging.getLogger('x').debug('not told')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line.endswith("INFO x: told so") if log_format == "text" else json.loads(line)["message"] == "told so"
