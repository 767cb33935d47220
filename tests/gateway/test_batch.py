"""BatchRankItems: in order, an error for its element alone, no faster than it is read, and people first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2

from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.errors import Cause, ModelError
from serving.gateway.load.coalescing import Coalescer
from serving.gateway.wire.stream import Lane, answer_in_order
from tests.gateway.conftest import Running, Start, until
from tests.gateway.fakes import NOW_S, World

ITEMS = ["i10", "i20", "i30"]


def asked(user_id: str, **fields: Any) -> pb.RankItemsRequest:
    return pb.RankItemsRequest(user_id=user_id, candidate_item_ids=ITEMS, **fields)


async def answers(running: Running, requests: Sequence[pb.RankItemsRequest], **call: Any) -> list[pb.RankItemsResponse]:
    return [answer async for answer in running.activation.BatchRankItems(iter(requests), **call)]


async def test_each_user_gets_the_ranking_that_rank_items_gives_and_in_order(start: Start, world: World) -> None:
    running = await start(world)
    users = ["active", "casual", "dormant", "nobody"] * 30
    found = await answers(running, [asked(user) for user in users])
    alone = {user: await running.activation.RankItems(asked(user)) for user in set(users)}
    assert [each.user_state.state for each in found] == [alone[user].user_state.state for user in users]
    for answer, user in zip(found, users, strict=True):
        assert [(item.item_id, item.rank) for item in answer.items] == [
            (item.item_id, item.rank) for item in alone[user].items
        ]
        assert answer.decision_id
        assert not answer.HasField("error")
    assert len(world.decisions.recorded) == len(users) + len(alone)


async def test_it_is_low_whatever_the_request_says(start: Start, world: World) -> None:
    running = await start(world)
    await answers(running, [asked("casual", priority=pb.PRIORITY_INTERACTIVE)])
    assert world.model.low == [True]
    await running.activation.RankItems(asked("casual"))
    assert world.model.low == [True, False]


async def test_an_error_stands_in_its_elements_place_and_the_stream_goes_on(start: Start, world: World) -> None:
    running = await start(world)
    replay = asked("casual", now=Timestamp(seconds=int(NOW_S)))
    found = await answers(running, [asked("casual"), asked("casual", limit=-1), replay, asked("active")])
    assert [each.error.code for each in found] == [0, code_pb2.INVALID_ARGUMENT, code_pb2.PERMISSION_DENIED, 0]
    violations = error_details_pb2.BadRequest()
    assert any(detail.Unpack(violations) for detail in found[1].error.details)
    assert violations.field_violations[0].field == "limit"
    assert not found[1].items
    assert [len(each.items) for each in found] == [3, 0, 0, 3]


async def test_bytes_that_are_no_request_are_their_elements_error(start: Start, world: World) -> None:
    running = await start(world)
    call: Any = running.channel.stream_stream(
        "/longtail.activation.v1.ActivationService/BatchRankItems",
        response_deserializer=pb.RankItemsResponse.FromString,
    )
    data = [asked("casual").SerializeToString(), b"\xff\xff\xff", asked("active").SerializeToString()]
    found = [answer async for answer in call(iter(data))]
    assert [each.error.code for each in found] == [0, code_pb2.INVALID_ARGUMENT, 0]


async def test_a_dependency_that_failed_degrades_or_is_the_elements_error(start: Start, world: World) -> None:
    world.model.error = ModelError(Cause.UNAVAILABLE, "down")
    running = await start(world)
    found = await answers(running, [asked("casual"), asked("casual", require_full=True)])
    assert found[0].degraded
    assert found[1].error.code == code_pb2.UNAVAILABLE


async def test_an_empty_stream_has_no_answers(start: Start, world: World) -> None:
    assert await answers(await start(world), []) == []


async def test_a_stream_that_is_cancelled_stops_working_at_once(start: Start, world: World) -> None:
    world.features.delay_s = 30
    running = await start(world, max_deadline_ms=60_000)
    call = running.activation.BatchRankItems(iter([asked("casual")] * 5))
    await until(lambda: len(world.features.asked) == 5)
    call.cancel()
    await until(lambda: world.features.cancelled == 5)


async def numbers(read: list[int]) -> AsyncIterator[int]:
    for number in range(100):
        read.append(number)
        yield number


async def test_requests_are_not_read_while_answers_are_not_taken() -> None:
    read: list[int] = []

    async def answer(number: int) -> int:
        return number

    stream = answer_in_order(numbers(read), answer, ahead=4)
    assert await anext(stream) == 0
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(read) <= 7
    assert [number async for number in stream] == list(range(1, 100))


async def test_what_breaks_the_reading_is_raised_after_what_was_read_before() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ConnectionError("gone")

    async def answer(number: int) -> int:
        await asyncio.sleep(0)
        return number

    stream = answer_in_order(broken(), answer, ahead=4)
    assert await anext(stream) == 1
    with pytest.raises(ConnectionError):
        await anext(stream)


async def test_fewer_are_in_work_while_people_are_served() -> None:
    now_s = 0.0
    lane = Lane(most=5, beside=2, busy_for_s=1.0, clock=lambda: now_s)
    leave = asyncio.Event()
    in_work = 0

    async def work() -> None:
        nonlocal in_work
        async with lane.enter():
            in_work += 1
            await leave.wait()

    lane.give_way()
    tasks = [asyncio.create_task(work()) for _ in range(4)]
    await asyncio.sleep(0.01)
    assert in_work == 2
    now_s = 2.0
    leave.set()
    await asyncio.gather(*tasks)
    leave.clear()
    tasks = [asyncio.create_task(work()) for _ in range(9)]
    await asyncio.sleep(0.01)
    assert in_work == 4 + 5
    leave.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(("are_served", "rest", "entered"), [(True, 1e6, 1), (True, 0.0, 2), (False, 1e6, 2)])
async def test_a_place_rests_after_its_work_while_people_are_served(
    are_served: bool, rest: float, entered: int
) -> None:
    now_s = 0.0
    lane = Lane(most=1, beside=1, busy_for_s=10.0, rest=rest, clock=lambda: now_s)
    count = 0

    async def work() -> None:
        nonlocal count, now_s
        async with lane.enter():
            count += 1
            now_s += 1.0

    if are_served:
        lane.give_way()
    tasks = [asyncio.create_task(work()) for _ in range(2)]
    await asyncio.wait(tasks, timeout=0.05)
    assert count == entered
    for task in tasks:
        task.cancel()


async def test_low_ones_board_last_and_leave_a_trip_to_the_others() -> None:
    trips: list[list[str]] = []
    open_ = asyncio.Event()

    async def ask(questions: Sequence[str]) -> list[str | Exception]:
        trips.append(list(questions))
        await open_.wait()
        return list(questions)

    coalescer = Coalescer(ask, most=4, most_low=2, trips=2, patience_s=60.0)
    calls = [asyncio.create_task(coalescer.get(f"low{n}", is_low=True)) for n in range(5)]
    await asyncio.sleep(0.01)
    assert trips == [["low0", "low1"]]
    calls += [asyncio.create_task(coalescer.get("person"))]
    await asyncio.sleep(0.01)
    assert trips[1:] == [["person", "low2"]]
    open_.set()
    await asyncio.gather(*calls)
