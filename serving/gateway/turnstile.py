"""Work in small turns, so that new calls are taken in between.

grpc.aio takes one new call every other turn of the event loop. When one runs the work of many calls, new ones wait in
gRPC's core, where nobody counts them, no permit is asked for and none is refused; under load they wait there until
their deadlines pass. So answers that came together are handed on one by one, and a new call is taken for each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

Callback = Callable[[], None]
HandOn = Callable[[Callback], None]


def at_once(callback: Callback) -> None:
    callback()


class Turnstile:
    """Runs callbacks in their order, one every other turn of the loop while several wait."""

    def __init__(self) -> None:
        self._waiting: deque[Callback] = deque()
        self._is_turning = False

    def soon(self, callback: Callback) -> None:
        self._waiting.append(callback)
        if not self._is_turning:
            self._is_turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    async def enter(self) -> None:
        """Returns when it is this task's turn."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.soon(lambda: None if mine.done() else mine.set_result(None))
        await mine

    def _turn(self) -> None:
        self._waiting.popleft()()
        if self._waiting:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._turn)
        else:
            self._is_turning = False
