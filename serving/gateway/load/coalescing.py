"""Calls that wait at the same time share one trip to a dependency.

While no trip is under way the next one leaves at once, so a lone call waits for nobody. Beside one that is, another
leaves when it is full or somebody has waited long; else all wait for the first to return, and share the next: what a
trip costs whatever it carries is paid seldom, and a slow one does not hold up all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


@dataclass(eq=False, slots=True)
class _Passenger(Generic[Question, Answer]):
    question: Question
    answer: asyncio.Future[Answer]
    since_s: float  # by the loop's clock
    is_low: bool
    context: Context = field(default_factory=copy_context)
    trip: _Trip[Question, Answer] | None = None


@dataclass(eq=False, slots=True)
class _Trip(Generic[Question, Answer]):
    passengers: list[_Passenger[Question, Answer]]
    task: asyncio.Task[None] | None = field(default=None)

    def leave(self) -> None:
        """The last one who gives up ends the trip."""
        if self.task is not None and all(passenger.answer.done() for passenger in self.passengers):
            self.task.cancel()


class Coalescer(Generic[Question, Answer]):
    """`ask` answers questions in their order; an exception among the answers is for that question alone.

    At most `trips` at a time, each of at most `most` questions; a second one beside another that is not full leaves
    after `patience_s`. Low ones board last, and only a trip that leaves another free for the others; `most_low` of them
    at most, so that the trip is soon back. Nobody waits for a trip that carries low ones.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Question]], Awaitable[Sequence[Answer | Exception]]],
        *,
        most: int,
        trips: int,
        patience_s: float,
        most_low: int | None = None,
    ) -> None:
        self._ask = ask
        self._most = most
        self._most_low = most if most_low is None else most_low
        self._trips = trips
        self._patience_s = patience_s
        self._waiting: deque[_Passenger[Question, Answer]] = deque()
        self._low_waiting: deque[_Passenger[Question, Answer]] = deque()
        self._under_way = 0
        self._under_way_with_low = 0  # trips that carry low ones
        self._is_called = False
        self._alarm: asyncio.TimerHandle | None = None

    async def get(self, question: Question, *, is_low: bool = False) -> Answer:
        """Raises what `ask` raises, or the exception that is this question's answer."""
        loop = asyncio.get_running_loop()
        passenger: _Passenger[Question, Answer] = _Passenger(question, loop.create_future(), loop.time(), is_low)
        (self._low_waiting if is_low else self._waiting).append(passenger)
        if not self._is_called and self._under_way < self._trips:
            self._is_called = True
            loop.call_soon(self._depart)
        try:
            return await passenger.answer
        except asyncio.CancelledError:
            if passenger.trip is not None:
                passenger.trip.leave()
            raise

    def _depart(self) -> None:
        self._is_called = False
        loop = asyncio.get_running_loop()
        while self._under_way < self._trips and (passengers := self._board(loop)):
            trip = _Trip(passengers)
            for passenger in passengers:
                passenger.trip = trip
            self._under_way += 1
            self._under_way_with_low += passengers[-1].is_low
            # In the trace of the one who waited longest; the others see the time in their own stage.
            trip.task = loop.create_task(self._travel(passengers), context=passengers[0].context)

    def _board(self, loop: asyncio.AbstractEventLoop) -> list[_Passenger[Question, Answer]]:
        passengers = _oldest(self._waiting, self._most) if self._may_leave(loop) else []
        is_last_trip = self._under_way == self._trips - 1
        if not passengers and is_last_trip and self._trips > 1:
            return []
        return passengers + _oldest(self._low_waiting, min(self._most_low, self._most) - len(passengers))

    def _may_leave(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether those who wait need not wait for the trip under way; sees to it that they are asked again."""
        if not self._waiting or self._under_way == self._under_way_with_low or len(self._waiting) >= self._most:
            return True
        left_s = self._waiting[0].since_s + self._patience_s - loop.time()
        if left_s <= 0:
            return True
        if self._alarm is None:
            self._alarm = loop.call_later(left_s, self._ring)
        return False

    def _ring(self) -> None:
        self._alarm = None
        self._depart()

    async def _travel(self, passengers: Sequence[_Passenger[Question, Answer]]) -> None:
        try:
            answers = await self._ask([passenger.question for passenger in passengers])
            for passenger, answer in zip(passengers, answers, strict=True):
                _settle(passenger.answer, answer)
        except Exception as error:
            for passenger in passengers:
                _settle(passenger.answer, error)
        finally:
            self._under_way -= 1
            self._under_way_with_low -= passengers[-1].is_low
            self._depart()


def _oldest(waiting: deque[_Passenger[Question, Answer]], most: int) -> list[_Passenger[Question, Answer]]:
    """Taken out, without those who gave up."""
    passengers: list[_Passenger[Question, Answer]] = []
    while waiting and len(passengers) < most:
        passenger = waiting.popleft()
        if not passenger.answer.done():
            passengers.append(passenger)
    return passengers


def _settle(future: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    """The passenger may have given up."""
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
