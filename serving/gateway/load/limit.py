"""How many calls at a time are worth it: more while answers come in time, fewer as soon as they do not (AIMD)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

DECREASE: Final = 0.9


class Limit:
    """Between `least` and `most`, from `most`; with both alike it is fixed.

    A call that took longer than `target_s` cuts the limit by a tenth, once per `target_s` at most, since calls that
    were already in flight then say the same again. One that was in time adds its share of one permit, when at least
    half of the limit was in use: otherwise it says nothing about more.
    """

    def __init__(
        self,
        most: int,
        *,
        least: int | None = None,
        target_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = most
        self._least = float(most if least is None else min(least, most))
        self._target_s = target_s
        self._clock = clock
        self._limit = float(most)
        self._cut_s = float("-inf")

    @property
    def value(self) -> int:
        return int(self._limit)

    def observe(self, took_s: float, *, in_flight: int) -> None:
        """A call ended that took so long, when so many were in flight, itself included."""
        if took_s <= self._target_s:
            if in_flight >= self._limit / 2:
                self._limit = min(self._limit + 1 / self._limit, float(self.most))
        elif self._clock() - self._cut_s >= self._target_s:
            self._cut_s = self._clock()
            self._limit = max(self._limit * DECREASE, self._least)
