"""Takes events into the event log: durable before they are acknowledged, and off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from feature_repo.errors import LongtailError
from feature_repo.events import Event, refusal
from serving.gateway.errors import FeedbackError
from serving.gateway.observing.telemetry import Telemetry


class Fate(StrEnum):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    fate: Fate
    error: str = ""


class Appends(Protocol):
    """`feature_repo.log.event_log.EventLog`, as far as it is needed here."""

    def append(self, events: Sequence[Event]) -> list[bool]: ...


class Feedback:
    """One thread writes: appends are a lock and an fsync, which wait for each other anyway."""

    def __init__(self, log: Appends, telemetry: Telemetry, *, on_recorded: Callable[[], None] = lambda: None) -> None:
        self._log = log
        self._on_recorded = on_recorded
        self._telemetry = telemetry
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="event-log")

    async def record(self, events: Sequence[Event | str], *, now: datetime) -> list[Outcome]:
        """One outcome per event, in their order; a str is why the event is none. Raises FeedbackError."""
        errors = [event if isinstance(event, str) else refusal(event, now=now) for event in events]
        good = [
            event for event, error in zip(events, errors, strict=True) if error is None and isinstance(event, Event)
        ]
        written = iter(await self._append(good) if good else [])
        outcomes = [
            Outcome(fate=Fate.REJECTED, error=error)
            if error is not None
            else Outcome(fate=Fate.ACCEPTED if next(written) else Fate.DUPLICATE)
            for error in errors
        ]
        if good:
            self._on_recorded()
        for outcome in outcomes:
            self._telemetry.events.labels(outcome.fate.value).inc()
        return outcomes

    async def _append(self, events: list[Event]) -> list[bool]:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._log.append, events)
        except (LongtailError, OSError) as error:
            raise FeedbackError(f"the event log cannot be written: {error}; nothing was recorded, retry") from error

    def close(self) -> None:
        self._thread.shutdown(wait=True)
