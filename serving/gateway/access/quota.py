"""Token buckets, one per caller. Time is monotonic: a clock that jumps changes nothing here."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from serving.gateway.access.caller import Caller, Rate
from serving.gateway.errors import QuotaError

MOST_CALLERS: Final = 10_000  # those not seen for longest are forgotten, and so have a full bucket again


@dataclass
class Bucket:
    rate: Rate
    left: float
    at_s: float

    def take(self, now_s: float) -> float:
        """Takes one call; gives 0, or the seconds after which there will be one."""
        self.left = min(self.left + (now_s - self.at_s) * self.rate.requests_per_s, float(self.rate.burst))
        self.at_s = now_s
        if self.left < 1:
            return (1 - self.left) / self.rate.requests_per_s
        self.left -= 1
        return 0.0


class Quotas:
    """`default` holds for callers without a rate of their own; None is no limit."""

    def __init__(self, default: Rate | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._default = default
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], Bucket] = OrderedDict()

    def take(self, caller: Caller) -> None:
        """Raises QuotaError."""
        wait_s = self._wait_s(caller)
        if wait_s:
            rate = caller.rate or self._default
            assert rate is not None
            raise QuotaError(
                f"{caller.how} {caller.name!r} may make {rate.requests_per_s:g} calls/s, {rate.burst} at once; "
                f"retry in {wait_s:.3g} s",
                caller=caller.name,
                retry_after_s=wait_s,
            )

    async def wait(self, caller: Caller) -> None:
        """Returns when the caller may go on: a stream is slowed, not refused."""
        while wait_s := self._wait_s(caller):  # noqa: ASYNC110  the bucket fills by time alone, without an event
            await asyncio.sleep(wait_s)

    def _wait_s(self, caller: Caller) -> float:
        rate = caller.rate or self._default
        if rate is None:
            return 0.0
        key, now_s = (caller.how, caller.name), self._clock()
        bucket = self._buckets.get(key)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[key] = Bucket(rate=rate, left=float(rate.burst), at_s=now_s)
            if len(self._buckets) > MOST_CALLERS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket.take(now_s)
