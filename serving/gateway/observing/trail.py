"""What one call went through, for the log: facts without personal data, and the time of each stage."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from serving.gateway.domain import Ranking
from serving.gateway.observing import tracing
from serving.gateway.observing.logs import FACTS

LINES_A_SECOND: Final = 5  # a gateway that is slow must not be made slower by saying so

_log = logging.getLogger(__name__)
_current: ContextVar[Trail | None] = ContextVar("trail", default=None)


@dataclass(kw_only=True)
class Trail:
    """Of one call, or of one answer of a stream; a stream's own has nothing on it."""

    method: str
    is_stream: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    stages_us: dict[str, int] = field(default_factory=dict)


def note_stage(stage: str, us: int) -> None:
    trail = _current.get()
    if trail is not None and not trail.is_stream:
        trail.stages_us[stage] = us


def note(ranking: Ranking) -> Trail | None:
    """On the trail of the call; a trail of its own, which is given, where the call is a stream."""
    degraded = [f"{one.dependency}:{one.cause}" for one in ranking.degradations]
    facts: dict[str, Any] = {
        "decision_id": ranking.decision_id,
        "state": ranking.user.state.value,
        "model_version": ranking.model.version if ranking.model else 0,
        "policy_version": ranking.policy_version,
        "degraded": degraded,
    }
    tracing.note(**{**facts, "degraded": ",".join(degraded)})
    trail = _current.get()
    if trail is None:
        return None
    if trail.is_stream:
        return Trail(
            method=trail.method, facts=facts, stages_us={f"{stage}": us for stage, us in ranking.timings_us.items()}
        )
    trail.facts |= facts
    return None


@contextmanager
def leaving(trail: Trail) -> Iterator[None]:
    """While it lasts, what this task does is noted on the trail."""
    token = _current.set(trail)
    try:
        yield
    finally:
        _current.reset(token)


class SlowRequests:
    """Keeps the last calls that took longer than `threshold_ms` (0: none), and writes them to the log as they come."""

    def __init__(self, threshold_ms: float, *, kept: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._threshold_ms = threshold_ms
        self.kept: deque[dict[str, Any]] = deque(maxlen=kept)
        self._clock = clock
        self._second = 0
        self._lines = 0
        self._unsaid = 0

    def note(self, trail: Trail, *, code: str, total_ms: float) -> bool:
        """True when it was slow."""
        if not 0 < self._threshold_ms <= total_ms:
            return False
        facts = {
            "method": trail.method,
            "code": code,
            "total_ms": round(total_ms, 3),
            "stages_ms": {stage: us / 1000 for stage, us in trail.stages_us.items() if stage != "total"},
            **trail.facts,
        }
        self.kept.append(facts)
        self._say(facts)
        return True

    def write_all(self) -> None:
        """All that are kept, once more: what was said too fast was not said."""
        for facts in self.kept:
            _log.warning("slow request, kept", extra={FACTS: facts})

    def _say(self, facts: dict[str, Any]) -> None:
        second = int(self._clock())
        if second != self._second:
            self._second, self._lines = second, 0
        if self._lines >= LINES_A_SECOND:
            self._unsaid += 1
            return
        self._lines += 1
        unsaid, self._unsaid = self._unsaid, 0
        _log.warning("slow request", extra={FACTS: {**facts, **({"unsaid_before": unsaid} if unsaid else {})}})
