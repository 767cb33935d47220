"""Many requests over one stream: answered in their order, some at a time, read on only as answers are taken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

Request = TypeVar("Request")
Response = TypeVar("Response")


class Lane:
    """How many elements of all streams are in work: `most`, or `beside` while people were served just now.

    Then a place also rests for `rest` times as long as its element took, which leaves people that share of the cores.
    """

    def __init__(
        self,
        *,
        most: int,
        beside: int,
        busy_for_s: float,
        rest: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._beside = min(beside, most)
        self._busy_for_s = busy_for_s
        self._rest = rest
        self._clock = clock
        self._busy_until_s = float("-inf")
        self._in_work = 0
        self._left = asyncio.Event()

    def give_way(self) -> None:
        """A person is served."""
        self._busy_until_s = self._clock() + self._busy_for_s

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        while self._in_work >= (self._beside if self._gives_way() else self._most):
            self._left.clear()
            await self._left.wait()
        self._in_work += 1
        entered_s = self._clock()
        try:
            yield
        finally:
            rest_s = self._rest * (self._clock() - entered_s) if self._gives_way() else 0.0
            asyncio.get_running_loop().call_later(rest_s, self._leave)

    def _gives_way(self) -> bool:
        return self._clock() < self._busy_until_s

    def _leave(self) -> None:
        self._in_work -= 1
        self._left.set()


async def answer_in_order(
    requests: AsyncIterator[Request], answer: Callable[[Request], Awaitable[Response]], *, ahead: int
) -> AsyncIterator[Response]:
    """At most `ahead` requests are read before the first of them is answered and its answer taken."""
    tasks: asyncio.Queue[asyncio.Task[Response] | None] = asyncio.Queue(ahead)
    started: set[asyncio.Task[Response]] = set()

    async def read() -> None:
        async for request in requests:
            task = asyncio.ensure_future(answer(request))
            started.add(task)
            task.add_done_callback(started.discard)
            await tasks.put(task)
        await tasks.put(None)

    reading = asyncio.create_task(read())
    try:
        while (task := await _next(tasks, reading)) is not None:
            yield await task
    finally:
        left = [reading, *started]
        for each in left:
            each.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*left, return_exceptions=True)


async def _next(
    tasks: asyncio.Queue[asyncio.Task[Response] | None], reading: asyncio.Task[None]
) -> asyncio.Task[Response] | None:
    """The next in order; raises what broke the reading, after all that was read before it."""
    if tasks.empty() and not reading.done():
        got = asyncio.ensure_future(tasks.get())
        await asyncio.wait({got, reading}, return_when=asyncio.FIRST_COMPLETED)
        if got.done():
            return got.result()
        got.cancel()
    if tasks.empty():
        reading.result()
    return tasks.get_nowait()
