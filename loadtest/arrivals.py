"""When requests are due. An arrival rate does not slow down with the server, so overload shows."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

MAX_REQUESTS: Final = 5_000_000  # of one run, in either loop


class Arrivals:
    """Due times, handed out in order to whichever caller is free.

    Open loop: a Poisson process, fixed by the seed and not by the answers; a caller that comes late gets a due time
    in the past. Closed loop: due is when a caller asks.
    """

    def __init__(self, *, rate_per_s: float | None, duration_s: float, seed: int, clock: Callable[[], float]) -> None:
        self._gaps = random.Random(seed)  # noqa: S311  not for secrets
        self._rate_per_s = rate_per_s
        self._duration_s = duration_s
        self._clock = clock
        self._start_s: float | None = None
        self._offset_s = 0.0
        self._taken = 0
        self._closed = False

    @property
    def start_s(self) -> float:
        """When the run began, on the clock: the first time anything was asked of it."""
        if self._start_s is None:
            self._start_s = self._clock()
        return self._start_s

    def take(self) -> float | None:
        """The next due time, on the clock; None when the run is over."""
        return None if self._closed else self._next()

    def close(self) -> list[float]:
        """Ends the run; the due times that no caller came to take."""
        self._closed = True
        return [] if self._rate_per_s is None else list(iter(self._next, None))

    def _next(self) -> float | None:
        if self._rate_per_s is None:
            self._offset_s = max(0.0, -self.start_s + self._clock())
        else:
            self._offset_s += self._gaps.expovariate(self._rate_per_s)
        self._taken += 1
        if self._offset_s >= self._duration_s or self._taken > MAX_REQUESTS:
            return None
        return self.start_s + self._offset_s
