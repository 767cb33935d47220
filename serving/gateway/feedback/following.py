"""Recorded events into the online store, in this process and beside the requests."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Protocol

from serving.gateway.observing.telemetry import Telemetry


class Follows(Protocol):
    """`feature_repo.stream.updates.FeedbackWorker`, as far as it is needed here."""

    def step(self, *, now: datetime) -> int: ...


class Following:
    """Woken by what this gateway records; looks now and then for what others did. Has a thread of its own."""

    def __init__(self, follower: Follows, *, poll_s: float, telemetry: Telemetry) -> None:
        self._follower = follower
        self._poll_s = poll_s
        self._telemetry = telemetry
        self._recorded = asyncio.Event()
        self._waiting_since_s: float | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feedback")

    def wake(self) -> None:
        if self._waiting_since_s is None:
            self._waiting_since_s = time.monotonic()
        self._recorded.set()

    async def catch_up(self) -> None:
        """Waits until woken or the poll is due, then applies all there is."""
        try:
            async with asyncio.timeout(self._poll_s):
                await self._recorded.wait()
        except TimeoutError:
            pass
        self._recorded.clear()
        since_s, self._waiting_since_s = self._waiting_since_s, None
        loop = asyncio.get_running_loop()
        while count := await loop.run_in_executor(self._thread, self._step):
            self._telemetry.events_applied.inc(count)
        if since_s is not None:
            self._telemetry.event_delay_s.observe(time.monotonic() - since_s)

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _step(self) -> int:
        return self._follower.step(now=datetime.now(UTC))
