"""What happened on a request's way: how long each stage took, and which dependency could not answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from serving.gateway import tracing
from serving.gateway.deadline import Deadline, Stage
from serving.gateway.domain import Degradation
from serving.gateway.errors import DependencyError, NotFullError
from serving.gateway.trail import note_stage


class Course:
    """Belongs to one request."""

    def __init__(self, deadline: Deadline, *, require_full: bool) -> None:
        self._deadline = deadline
        self._require_full = require_full
        self._started_ns = time.perf_counter_ns()
        self._timings_us: dict[str, int] = {}
        self._degradations: list[Degradation] = []

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[float]:
        """Times the stage; gives the seconds it may wait."""
        timeout_s = self._deadline.timeout_s(stage)
        started_ns = time.perf_counter_ns()
        try:
            with tracing.span(stage):
                yield timeout_s
        finally:
            us = self._timings_us[stage] = (time.perf_counter_ns() - started_ns) // 1000
            note_stage(stage, us)

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
