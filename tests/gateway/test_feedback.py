"""RecordEvents: durable, idempotent, each event judged alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.log.event_log import EventLog
from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import feedback_pb2 as fb
from tests.gateway.conftest import Running, Start
from tests.gateway.fakes import NOW_S, World

ACCEPTED, DUPLICATE, REJECTED = (
    fb.EventAck.STATUS_ACCEPTED,
    fb.EventAck.STATUS_DUPLICATE,
    fb.EventAck.STATUS_REJECTED,
)


def event(event_id: str = "e1", *, unix_s: float = NOW_S - 60, **fields: str | float) -> fb.Event:
    given = {"user_id": "u", "item_id": "i10", "event_type": "click", **fields}
    return fb.Event(event_id=event_id, event_time=Timestamp(seconds=int(unix_s)), **given)  # type: ignore[arg-type]


async def record(running: Running, *events: fb.Event) -> list[fb.EventAck]:
    return list((await running.feedback.RecordEvents(fb.RecordEventsRequest(events=events))).acks)


async def test_an_event_is_in_the_log_when_it_is_acknowledged(start: Start, world: World) -> None:
    running = await start(world)
    (ack,) = await record(running, event(value=4.5, surface="home", decision_id="d1"))
    assert (ack.event_id, ack.status, ack.error) == ("e1", ACCEPTED, "")
    written = world.events.events["e1"]
    assert (written.user_id, written.item_id, written.event_type, written.value) == ("u", "i10", "click", 4.5)
    assert (written.surface, written.decision_id) == ("home", "d1")
    assert written.event_time == datetime.fromtimestamp(NOW_S - 60, UTC)


async def test_a_ranking_takes_every_surface_that_an_event_takes(start: Start, world: World) -> None:
    running = await start(world)
    surface = "s" * 128
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="casual", surface=surface))
    (ack,) = await record(running, event(surface=surface, decision_id=answer.decision_id))
    assert ack.status == ACCEPTED
    with pytest.raises(grpc.aio.AioRpcError, match="has 129 bytes; 0 to 128 are allowed"):
        await running.activation.RankItems(pb.RankItemsRequest(user_id="casual", surface=surface + "s"))
    (ack,) = await record(running, event("e2", surface=surface + "s"))
    assert ack.status == REJECTED


async def test_an_event_without_a_time_happened_on_arrival(start: Start, world: World) -> None:
    running = await start(world)
    await record(running, fb.Event(event_id="e1", user_id="u", item_id="i", event_type="view"))
    assert world.events.events["e1"].event_time == datetime.fromtimestamp(NOW_S, UTC)
    assert world.events.events["e1"].value is None


async def test_a_retry_is_no_second_event(start: Start, world: World) -> None:
    running = await start(world)
    await record(running, event())
    acks = await record(running, event(), event("e2"), event("e2"))
    assert [ack.status for ack in acks] == [DUPLICATE, ACCEPTED, DUPLICATE]
    assert len(world.events.events) == 2


@pytest.mark.parametrize(
    "bad",
    [
        event(""),
        event("e" * 129),
        event(user_id=""),
        event(user_id="u" * 10_000),
        event(item_id=""),
        event(event_type=""),
        event(event_type="Click Me"),
        event(event_type="t" * 65),
        event(unix_s=4_070_908_800),  # 2099
        event(unix_s=-1),
        event(unix_s=2**60),
        event(unix_s=-(2**60)),
        event(value=float("nan")),
        event(value=float("inf")),
    ],
    ids=lambda bad: str(bad)[:40].replace("\n", " "),
)
async def test_a_bad_event_is_refused_alone_and_told_why(start: Start, world: World, bad: fb.Event) -> None:
    running = await start(world)
    acks = await record(running, event("good"), bad, event("fine"))
    assert [ack.status for ack in acks] == [ACCEPTED, REJECTED, ACCEPTED]
    assert acks[1].error
    assert set(world.events.events) == {"good", "fine"}
    assert running.metric("longtail_events_total", status="rejected") == 1


@pytest.mark.parametrize("unix_s", [0, NOW_S, NOW_S + 3600])
async def test_times_from_1970_to_a_little_ahead_are_taken(start: Start, world: World, unix_s: float) -> None:
    running = await start(world)
    (ack,) = await record(running, event(unix_s=unix_s))
    assert ack.status == ACCEPTED


@pytest.mark.parametrize("count", [0, 1001])
async def test_no_event_or_too_many_are_refused_whole(start: Start, world: World, count: int) -> None:
    running = await start(world)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await record(running, *(event(f"e{place}") for place in range(count)))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "events" in (refused.value.details() or "")
    assert not world.events.events


async def test_when_the_log_cannot_be_written_nothing_is_acknowledged(start: Start, world: World) -> None:
    world.events.error = OSError(28, "No space left on device")
    running = await start(world)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await record(running, event())
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "No space left" in (refused.value.details() or "")


async def test_the_real_log_keeps_them_across_a_restart(start: Start, world: World, tmp_path: Path) -> None:
    world.events = EventLog(tmp_path)  # type: ignore[assignment]
    running = await start(world)
    await record(running, *(event(f"e{place}") for place in range(1000)))
    world.events = EventLog(tmp_path)  # type: ignore[assignment]
    again = await start(world)
    acks = await record(again, event("e999"), event("e1000"))
    assert [ack.status for ack in acks] == [DUPLICATE, ACCEPTED]
