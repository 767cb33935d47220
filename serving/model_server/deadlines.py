"""Until when the caller of the current request waits."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Final

NEVER: Final = float("inf")

_deadline: ContextVar[float] = ContextVar("deadline", default=NEVER)


def set_time_left(left_s: float | None) -> None:
    """The caller waits so long from now on; None is for ever."""
    _deadline.set(NEVER if left_s is None else time.monotonic() + left_s)


def current() -> float:
    """The deadline of the current request, on the monotonic clock."""
    return _deadline.get()
