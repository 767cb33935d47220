"""How many calls may be in flight: taken before any work, never waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from serving.gateway.errors import OverloadedError


class Permits:
    """Calls of low priority may hold `low_permits` of them, so that people are served beside jobs."""

    def __init__(self, permits: int, *, low_permits: int | None = None, retry_after_s: float, taken: Gauge) -> None:
        self._permits = permits
        self._low_permits = permits if low_permits is None else min(low_permits, permits)
        self._retry_after_s = retry_after_s
        self._gauge = taken
        self._taken = 0
        self._low_taken = 0

    @contextmanager
    def take(self, *, low: bool = False) -> Iterator[None]:
        """Raises OverloadedError at once when none is free."""
        if self._taken >= self._permits:
            raise OverloadedError(permits=self._permits, retry_after_s=self._retry_after_s)
        if low and self._low_taken >= self._low_permits:
            raise OverloadedError(permits=self._low_permits, retry_after_s=self._retry_after_s)
        self._hold(1, low)
        try:
            yield
        finally:
            self._hold(-1, low)

    def _hold(self, change: int, low: bool) -> None:
        self._taken += change
        self._low_taken += change if low else 0
        self._gauge.set(self._taken)
