"""Callers who wait together travel together, and none of them pays for another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from serving.gateway.load.coalescing import Coalescer

LONG_S = 60.0


class Doubler:
    """Answers when it is let; 13 has no double."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.open = asyncio.Event()
        self.cancelled = 0

    async def ask(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.asked.append(list(numbers))
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [ValueError("13") if number == 13 else 2 * number for number in numbers]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_lone_caller_does_not_wait_for_company() -> None:
    doubler = Doubler()
    doubler.open.set()
    coalescer = Coalescer(doubler.ask, most=8, trips=1, patience_s=LONG_S)
    assert await coalescer.get(4) == 8
    assert doubler.asked == [[4]]


async def test_who_waits_meanwhile_shares_the_next_trip_in_order_and_up_to_its_size() -> None:
    doubler = Doubler()
    coalescer = Coalescer(doubler.ask, most=3, trips=1, patience_s=LONG_S)
    first = asyncio.create_task(coalescer.get(0))
    await settle()
    others = [asyncio.create_task(coalescer.get(number)) for number in range(1, 6)]
    await settle()
    assert doubler.asked == [[0]]
    doubler.open.set()
    assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10]
    assert doubler.asked == [[0], [1, 2, 3], [4, 5]]


async def test_trips_run_side_by_side_up_to_their_number() -> None:
    doubler = Doubler()
    coalescer = Coalescer(doubler.ask, most=1, trips=2, patience_s=LONG_S)
    calls = [asyncio.create_task(coalescer.get(number)) for number in range(3)]
    await settle()
    assert doubler.asked == [[0], [1]]
    doubler.open.set()
    await asyncio.gather(*calls)
    assert len(doubler.asked) == 3


async def test_a_second_trip_leaves_beside_the_first_once_it_is_full() -> None:
    doubler = Doubler()
    coalescer = Coalescer(doubler.ask, most=2, trips=3, patience_s=LONG_S)
    calls = [asyncio.create_task(coalescer.get(0))]
    await settle()
    calls.append(asyncio.create_task(coalescer.get(1)))
    await settle()
    assert doubler.asked == [[0]]
    calls.append(asyncio.create_task(coalescer.get(2)))
    await settle()
    assert doubler.asked == [[0], [1, 2]]
    doubler.open.set()
    assert await asyncio.gather(*calls) == [0, 2, 4]


async def test_a_trip_that_takes_long_holds_nobody_up_for_longer_than_their_patience() -> None:
    doubler = Doubler()
    coalescer = Coalescer(doubler.ask, most=8, trips=2, patience_s=0.02)
    first = asyncio.create_task(coalescer.get(0))
    await settle()
    others = [asyncio.create_task(coalescer.get(number)) for number in (1, 2)]
    await settle()
    assert doubler.asked == [[0]]
    await asyncio.sleep(0.1)
    assert doubler.asked == [[0], [1, 2]]
    doubler.open.set()
    assert await asyncio.gather(first, *others) == [0, 2, 4]


@pytest.mark.parametrize("is_alone", [True, False])
async def test_nobody_waits_for_a_trip_that_carries_low_ones(is_alone: bool) -> None:
    doubler = Doubler()
    coalescer = Coalescer(doubler.ask, most=8, trips=2, patience_s=LONG_S)
    first = [] if is_alone else [asyncio.create_task(coalescer.get(5))]
    first.append(asyncio.create_task(coalescer.get(0, is_low=True)))
    await settle()
    person = asyncio.create_task(coalescer.get(1))
    await settle()
    assert doubler.asked == [[0] if is_alone else [5, 0], [1]]
    doubler.open.set()
    assert await person == 2
    await asyncio.gather(*first)


async def test_one_without_an_answer_does_not_spoil_the_others() -> None:
    doubler = Doubler()
    doubler.open.set()
    coalescer = Coalescer(doubler.ask, most=8, trips=1, patience_s=LONG_S)
    found = await asyncio.gather(*(coalescer.get(number) for number in (12, 13, 14)), return_exceptions=True)
    assert [found[0], found[2]] == [24, 28]
    assert isinstance(found[1], ValueError)


async def test_a_trip_that_fails_fails_for_all_in_it_and_the_next_goes_on() -> None:
    fails = True

    async def ask(numbers: Sequence[int]) -> list[int | Exception]:
        if fails:
            raise OSError("gone")
        return list(numbers)

    coalescer = Coalescer(ask, most=8, trips=1, patience_s=LONG_S)
    found = await asyncio.gather(coalescer.get(1), coalescer.get(2), return_exceptions=True)
    assert [type(each) for each in found] == [OSError, OSError]
    fails = False
    assert await coalescer.get(3) == 3


async def test_who_gave_up_before_the_trip_is_not_taken_along() -> None:
    doubler = Doubler()
    coalescer = Coalescer(doubler.ask, most=8, trips=1, patience_s=LONG_S)
    first = asyncio.create_task(coalescer.get(1))
    await settle()
    gone, stays = asyncio.create_task(coalescer.get(2)), asyncio.create_task(coalescer.get(3))
    await settle()
    gone.cancel()
    await settle()
    doubler.open.set()
    await asyncio.gather(first, stays)
    assert doubler.asked == [[1], [3]]


async def test_a_trip_ends_when_nobody_waits_for_it_and_makes_room() -> None:
    doubler = Doubler()
    coalescer = Coalescer(doubler.ask, most=8, trips=1, patience_s=LONG_S)
    pair = [asyncio.create_task(coalescer.get(number)) for number in (1, 2)]
    await settle()
    pair[0].cancel()
    await settle()
    assert doubler.cancelled == 0
    pair[1].cancel()
    await settle()
    assert doubler.cancelled == 1
    doubler.open.set()
    assert await coalescer.get(5) == 10


async def test_a_caller_who_is_late_leaves_the_others_their_answer() -> None:
    doubler = Doubler()
    coalescer = Coalescer(doubler.ask, most=8, trips=1, patience_s=LONG_S)
    patient = asyncio.create_task(coalescer.get(7))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await coalescer.get(8)
    doubler.open.set()
    assert await patient == 14
