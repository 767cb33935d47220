"""How many calls are in work: a permit is taken before any work, waited for shortly and in a bounded queue only."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from prometheus_client import Counter, Gauge

from serving.gateway.errors import OverloadedError
from serving.gateway.load.limit import Limit

Waiter = asyncio.Future[None]  # done when the permit is there; an exception when it is not to be had


class Seat:
    """Kept for a call from before it is taken from gRPC's core until it asks for its permit, or ends without one."""

    def __init__(self, permits: Permits) -> None:
        self._permits = permits
        self._is_kept = True

    def leave(self) -> None:
        if self._is_kept:
            self._is_kept = False
            self._permits.give_up_room()


_seat: ContextVar[Seat | None] = ContextVar("_seat", default=None)


class Permits:
    """Calls of low priority wait behind the others, make room for them in the queue, and hold `low_permits` at most."""

    def __init__(
        self,
        limit: Limit,
        *,
        low_permits: int | None = None,
        queue: int = 0,
        queue_s: float = 0.0,
        retry_after_s: float,
        taken: Gauge,
        not_taking_s: Counter,
    ) -> None:
        self._limit = limit
        self._low_permits = limit.most if low_permits is None else low_permits
        self._queue = queue
        self._queue_s = queue_s
        self._retry_after_s = retry_after_s
        self._gauge = taken
        self._not_taking_s = not_taking_s
        self._full_since_s = 0.0
        self._taken = 0
        self._low_taken = 0
        self._coming = 0  # seats that are kept
        self._waiting: deque[Waiter] = deque()
        self._low_waiting: deque[Waiter] = deque()
        self._has_room = asyncio.Event()
        self._has_room.set()

    def waiting(self) -> int:
        """Calls that wait for a permit."""
        return len(self._waiting) + len(self._low_waiting)

    async def room(self) -> None:
        """Returns when a person's call will find a permit or a place in the queue, and keeps it for the call.

        At once where there is no queue.
        """
        while not self._has_room.is_set():
            await self._has_room.wait()
        self._coming += 1
        self._note_room()

    def give_up_room(self) -> None:
        """For a call that did not come."""
        self._coming -= 1
        self._note_room()

    def seat(self) -> Seat:
        """To be asked for by the task of a call that came; `take` leaves it, and so must the task's end."""
        seat = Seat(self)
        _seat.set(seat)
        return seat

    @asynccontextmanager
    async def take(self, *, low: bool = False) -> AsyncIterator[None]:
        """Raises OverloadedError, at once when the queue is full."""
        if (seat := _seat.get()) is not None:
            seat.leave()
        if self._is_free(low):
            self._hold(1, low)
        else:
            await self._wait(low)
        started_s = time.monotonic()
        try:
            yield
        finally:
            self._limit.observe(time.monotonic() - started_s, in_flight=self._taken)
            self._hold(-1, low)
            self._hand_on()

    def _is_free(self, low: bool) -> bool:
        return self._taken < self._limit.value and not (low and self._low_taken >= self._low_permits)

    async def _wait(self, low: bool) -> None:
        if self.waiting() >= self._queue and (low or not self._turn_away_low()):
            raise self._overloaded(low)
        waiter: Waiter = asyncio.get_running_loop().create_future()
        queue = self._low_waiting if low else self._waiting
        queue.append(waiter)
        self._note_room()
        try:
            async with asyncio.timeout(self._queue_s):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:  # it came too late
                self._hold(-1, low)
                self._hand_on()
            elif waiter in queue:
                queue.remove(waiter)
                self._note_room()
            if isinstance(error, TimeoutError):
                raise self._overloaded(low) from None
            raise

    def _turn_away_low(self) -> bool:
        """The low one that came last leaves the queue to one who is not."""
        if not self._low_waiting:
            return False
        self._low_waiting.pop().set_exception(self._overloaded(low=True))
        return True

    def _hand_on(self) -> None:
        for low, queue in ((False, self._waiting), (True, self._low_waiting)):
            while queue and self._is_free(low):
                waiter = queue.popleft()
                if not waiter.done():
                    self._hold(1, low)
                    waiter.set_result(None)
        self._note_room()

    def _note_room(self) -> None:
        places = max(self._limit.value - self._taken, 0) + self._queue - len(self._waiting)
        is_full = self._queue > 0 and self._coming >= places
        if is_full and self._has_room.is_set():
            self._has_room.clear()
            self._full_since_s = time.monotonic()
        elif not is_full and not self._has_room.is_set():
            self._has_room.set()
            self._not_taking_s.inc(time.monotonic() - self._full_since_s)

    def _hold(self, change: int, low: bool) -> None:
        self._taken += change
        self._low_taken += change if low else 0
        self._gauge.set(self._taken)

    def _overloaded(self, low: bool) -> OverloadedError:
        permits = min(self._low_permits, self._limit.value) if low else self._limit.value
        return OverloadedError(permits=permits, retry_after_s=self._retry_after_s)
