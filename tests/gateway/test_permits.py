"""The queue before the permits, and the limit that moves."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.gateway.errors import OverloadedError
from serving.gateway.load.limit import Limit
from serving.gateway.load.permits import Permits


def permits(limit: int, *, queue: int, low: int | None = None, queue_s: float = 10.0) -> Permits:
    registry = CollectorRegistry()
    return Permits(
        Limit(limit),
        low_permits=low,
        queue=queue,
        queue_s=queue_s,
        retry_after_s=0.05,
        taken=Gauge("taken", "", registry=registry),
        not_taking_s=Counter("not_taking_seconds", "", registry=registry),
    )


class Calls:
    """Calls that hold their permit until they are let go, and in which order they got it."""

    def __init__(self, subject: Permits) -> None:
        self.subject = subject
        self.order: list[str] = []
        self.leave = {name: asyncio.Event() for name in "abcdefgh"}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str, *, low: bool = False) -> None:
        async def call() -> None:
            async with self.subject.take(low=low):
                self.order.append(name)
                await self.leave[name].wait()

        self.tasks[name] = asyncio.create_task(call())
        await asyncio.sleep(0.001)

    async def end(self, name: str) -> None:
        self.leave[name].set()
        await asyncio.sleep(0.001)

    async def finish(self) -> list[Any]:
        for event in self.leave.values():
            event.set()
        return await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def test_who_waits_gets_the_permit_that_becomes_free_in_order() -> None:
    calls = Calls(permits(1, queue=2))
    for name in "abc":
        await calls.start(name)
    assert calls.order == ["a"]
    await calls.end("a")
    assert calls.order == ["a", "b"]
    await calls.end("b")
    assert calls.order == ["a", "b", "c"]
    await calls.finish()


async def test_people_go_before_jobs_that_came_earlier() -> None:
    calls = Calls(permits(1, queue=4))
    await calls.start("a")
    await calls.start("b", low=True)
    await calls.start("c")
    await calls.end("a")
    assert calls.order == ["a", "c"]
    await calls.finish()
    assert calls.order == ["a", "c", "b"]


async def test_one_more_than_the_queue_holds_is_refused_at_once() -> None:
    calls = Calls(permits(1, queue=1))
    for name in "abc":
        await calls.start(name)
    assert isinstance((await asyncio.gather(calls.tasks["c"], return_exceptions=True))[0], OverloadedError)
    await calls.finish()


async def test_a_job_in_a_full_queue_makes_room_for_a_person() -> None:
    calls = Calls(permits(1, queue=1))
    await calls.start("a")
    await calls.start("b", low=True)
    await calls.start("c")
    with pytest.raises(OverloadedError):
        await calls.tasks["b"]
    await calls.end("a")
    assert calls.order == ["a", "c"]
    await calls.finish()


async def test_jobs_hold_their_part_and_let_people_pass() -> None:
    calls = Calls(permits(3, queue=4, low=1))
    await calls.start("a", low=True)
    await calls.start("b", low=True)
    await calls.start("c")
    assert calls.order == ["a", "c"]
    await calls.end("a")
    assert calls.order == ["a", "c", "b"]
    await calls.finish()


async def test_nobody_waits_longer_than_allowed_and_no_permit_is_lost() -> None:
    calls = Calls(permits(1, queue=2, queue_s=0.01))
    await calls.start("a")
    await calls.start("b")
    with pytest.raises(OverloadedError):
        await calls.tasks["b"]
    await calls.end("a")
    await calls.start("c")
    assert calls.order == ["a", "c"]
    await calls.finish()


async def test_who_gives_up_while_waiting_leaves_the_permit_to_the_next() -> None:
    calls = Calls(permits(1, queue=2))
    for name in "abc":
        await calls.start(name)
    calls.tasks["b"].cancel()
    await calls.end("a")
    assert calls.order == ["a", "c"]
    await calls.finish()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(calls.subject.take())


class Server:
    """Answers in 10 ms up to its capacity, and in proportion later beyond; always as full as the limit lets it be."""

    def __init__(self, *, most: int, least: int) -> None:
        self.now_s = 0.0
        self.limit = Limit(most, least=least, target_s=0.03, clock=lambda: self.now_s)

    def run(self, *, capacity: int, seconds: float) -> int:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            in_flight = self.limit.value
            took_s = 0.01 * max(in_flight / capacity, 1.0)
            self.now_s += took_s / in_flight
            self.limit.observe(took_s, in_flight=in_flight)
        return self.limit.value


def test_a_limit_with_no_room_to_move_is_fixed() -> None:
    server = Server(most=4, least=4)
    assert server.run(capacity=1, seconds=2) == 4


def test_the_limit_falls_to_what_is_answered_in_time_and_comes_back() -> None:
    server = Server(most=64, least=4)
    assert server.run(capacity=64, seconds=1) == 64
    assert 18 <= server.run(capacity=8, seconds=2) <= 26
    assert server.run(capacity=64, seconds=1) == 64


def test_the_limit_never_falls_below_its_least() -> None:
    server = Server(most=64, least=4)
    assert server.run(capacity=1, seconds=20) == 4


def test_calls_that_do_not_fill_the_limit_do_not_raise_it() -> None:
    server = Server(most=64, least=4)
    fallen = server.run(capacity=1, seconds=20)
    for _ in range(1000):
        server.limit.observe(0.001, in_flight=1)
    assert server.limit.value == fallen


async def waits(room: asyncio.Task[None]) -> bool:
    await asyncio.sleep(0.001)
    return not room.done()


async def test_there_is_room_for_as_many_as_permits_and_places_and_again_when_one_leaves() -> None:
    subject = permits(1, queue=2)
    calls = Calls(subject)
    await calls.start("a")
    await asyncio.wait_for(subject.room(), 1)
    await calls.start("b")
    room = asyncio.create_task(subject.room())
    assert await waits(room)
    calls.tasks["b"].cancel()
    await asyncio.wait_for(room, 1)
    await calls.finish()


async def test_a_call_sits_in_one_seat_until_it_asks_for_its_permit() -> None:
    subject = permits(1, queue=1)
    leave = asyncio.Event()

    async def call(slow: asyncio.Event) -> None:
        subject.seat()
        await slow.wait()
        async with subject.take():
            await leave.wait()

    slow = asyncio.Event()
    tasks = []
    for _ in range(2):
        await asyncio.wait_for(subject.room(), 1)
        tasks.append(asyncio.create_task(call(slow)))
    room = asyncio.create_task(subject.room())
    assert await waits(room)  # both are on their way
    slow.set()
    assert await waits(room)  # one is in work, one waits
    assert subject.waiting() == 1
    leave.set()
    await asyncio.wait_for(asyncio.gather(room, *tasks), 1)


async def test_a_call_that_ends_without_a_permit_leaves_its_seat_once() -> None:
    subject = permits(1, queue=1)
    await subject.room()
    await subject.room()
    seat = subject.seat()
    rooms = [asyncio.create_task(subject.room()) for _ in range(2)]
    assert await waits(rooms[0])
    seat.leave()
    seat.leave()
    await asyncio.wait_for(rooms[0], 1)
    assert await waits(rooms[1])
    subject.give_up_room()
    await asyncio.wait_for(rooms[1], 1)


async def test_room_goes_to_one_of_those_who_wait_for_it() -> None:
    subject = permits(1, queue=1)
    calls = Calls(subject)
    for name in "ab":
        await calls.start(name)
    rooms = [asyncio.create_task(subject.room()) for _ in range(2)]
    assert await waits(rooms[0])
    await calls.end("a")
    await waits(rooms[0])
    assert [room.done() for room in rooms] == [True, False]
    await calls.finish()
    await asyncio.gather(*rooms)


async def test_jobs_that_wait_take_no_room_from_people() -> None:
    subject = permits(1, queue=3)
    calls = Calls(subject)
    await calls.start("a")
    await calls.start("b", low=True)
    await asyncio.wait_for(subject.room(), 1)
    await calls.finish()


async def test_without_a_queue_there_is_always_room_to_be_refused() -> None:
    subject = permits(1, queue=0)
    calls = Calls(subject)
    await calls.start("a")
    await asyncio.wait_for(subject.room(), 1)
    await calls.finish()
