"""More calls than the gateway takes: they wait in gRPC's core, which refuses beyond its backlog."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from longtail.activation.v1 import activation_pb2 as pb
from tests.gateway.conftest import Running, Start, until
from tests.gateway.fakes import World

CALLS = 40
BACKLOG = 8
QUEUE = 4


def ask(running: Running, user_id: str) -> asyncio.Task[str]:
    async def code() -> str:
        try:
            await running.activation.RankItems(pb.RankItemsRequest(user_id=user_id), timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    return asyncio.create_task(code())


async def fill(running: Running, world: World) -> list[asyncio.Task[str]]:
    """One call in work, and many more."""
    world.features.delay_s = 0.5
    calls = [ask(running, "in work")]
    await until(lambda: world.features.asked)
    return calls + [ask(running, f"more {place}") for place in range(CALLS)]


async def test_what_is_beyond_the_backlog_is_refused_by_the_core_and_the_rest_is_answered(
    start: Start, world: World
) -> None:
    running = await start(world, permits=1, queue=QUEUE, queue_ms=60_000, backlog=BACKLOG, target_ms=60_000)
    calls = await fill(running, world)
    await until(lambda: sum(call.done() for call in calls) >= CALLS - BACKLOG - QUEUE)
    assert {call.result() for call in calls if call.done()} == {"CANCELLED"}
    assert world.features.asked == ["in work"]  # none was taken to be refused
    assert running.metric("longtail_requests_total", method="RankItems", code="RESOURCE_EXHAUSTED") == 0
    world.features.delay_s = 0.0
    codes = await asyncio.gather(*calls)
    assert codes.count("OK") > QUEUE
    assert set(codes) == {"OK", "CANCELLED"}
    assert running.metric("longtail_not_taking_seconds_total", service="activation") > 0


async def test_health_answers_while_calls_wait(start: Start, world: World) -> None:
    running = await start(world, permits=1, queue=QUEUE, queue_ms=60_000, backlog=BACKLOG)
    calls = await fill(running, world)
    answer = await health_pb2_grpc.HealthStub(running.channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    world.features.delay_s = 0.0
    await asyncio.gather(*calls)


async def test_a_drain_does_not_wait_for_calls_that_were_not_taken(start: Start, world: World) -> None:
    running = await start(world, permits=1, queue=QUEUE, queue_ms=60_000, backlog=BACKLOG, drain_s=30.0)
    calls = await fill(running, world)
    await running.gateway.drain()
    codes = [await call for call in calls]
    assert codes[0] == "OK"
    assert set(codes) <= {"OK", "CANCELLED", "UNAVAILABLE"}


async def test_calls_that_never_ask_for_a_permit_leave_their_seats(start: Start, world: World) -> None:
    running = await start(world, permits=1, queue=1, backlog=BACKLOG)
    raw: Any = running.channel.unary_unary("/longtail.activation.v1.ActivationService/RankItems")
    for _ in range(5):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await raw(b"\xff\xff\xff", timeout=10)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await ask(running, "u1") == "OK"
