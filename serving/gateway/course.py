"""What happened on a request's way: how long each stage took, and which dependency could not answer."""

from __future__ import annotations

import time
from typing import Any

from serving.gateway.deadline import Deadline, Stage
from serving.gateway.domain import Degradation
from serving.gateway.errors import DependencyError, NotFullError
from serving.gateway.observing import tracing
from serving.gateway.observing.trail import note_stage


class _Leg:
    """One stage while it lasts."""

    __slots__ = ("_span", "_stage", "_started_ns", "_timeout_s", "_timings_us")

    def __init__(self, stage: Stage, timeout_s: float, timings_us: dict[str, int]) -> None:
        self._stage = stage
        self._timeout_s = timeout_s
        self._timings_us = timings_us
        self._span = tracing.span(stage)

    def __enter__(self) -> float:
        self._started_ns = time.perf_counter_ns()
        self._span.__enter__()
        return self._timeout_s

    def __exit__(self, *failure: Any) -> None:
        self._span.__exit__(*failure)
        us = self._timings_us[self._stage] = (time.perf_counter_ns() - self._started_ns) // 1000
        note_stage(self._stage.value, us)


class Course:
    """Belongs to one request."""

    def __init__(self, deadline: Deadline, *, require_full: bool) -> None:
        self._deadline = deadline
        self._require_full = require_full
        self._started_ns = time.perf_counter_ns()
        self._timings_us: dict[str, int] = {}
        self._degradations: list[Degradation] = []

    def stage(self, stage: Stage) -> _Leg:
        """Times the stage; gives the seconds it may wait. Raises DeadlineError when there are none."""
        return _Leg(stage, self._deadline.timeout_s(stage), self._timings_us)

    def degrade(self, failure: DependencyError) -> None:
        """Notes the failure; raises NotFullError when the caller would rather have no answer."""
        if self._require_full:
            raise NotFullError(
                f"{failure}; retry, or leave require_full unset to get a degraded answer",
                dependency=failure.dependency,
                cause=failure.cause,
            ) from failure
        self._degradations.append(
            Degradation(dependency=failure.dependency, cause=failure.cause, detail=failure.detail)
        )

    @property
    def degradations(self) -> tuple[Degradation, ...]:
        return tuple(self._degradations)

    def timings_us(self) -> dict[str, int]:
        return {**self._timings_us, "total": (time.perf_counter_ns() - self._started_ns) // 1000}
