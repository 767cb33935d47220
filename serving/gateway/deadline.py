"""One deadline, split over the stages once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate

from serving.gateway.errors import DeadlineError
from serving.gateway.settings import StageShares


class Stage(StrEnum):
    """In the order in which a request passes them."""

    FEATURES = "features"
    CANDIDATES = "candidates"
    SCORE = "score"
    POLICY = "policy"
    DECISION_LOG = "decision_log"


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """A stage may wait until its share and those before it are used up: what one leaves, the next has."""

    started_s: float
    budget_s: float
    shares: StageShares
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, budget_s: float, shares: StageShares) -> Deadline:
        return cls(started_s=time.monotonic(), budget_s=budget_s, shares=shares)

    def timeout_s(self, stage: Stage) -> float:
        """Raises DeadlineError when there is no time for anything any more."""
        elapsed_s = self.clock() - self.started_s
        if elapsed_s >= self.budget_s:
            raise DeadlineError(f"the deadline of {self.budget_s:g} s passed before {stage}; give more time")
        return max(self.budget_s * _through(self.shares)[stage] - elapsed_s, 0.0)


@lru_cache(maxsize=16)
def _through(shares: StageShares) -> Mapping[Stage, float]:
    """The share of each stage and those before it."""
    given: dict[str, float] = shares.model_dump()
    sums = accumulate(given.get(stage, 0.0) for stage in Stage)
    return {stage: min(through, 1.0) for stage, through in zip(Stage, sums, strict=True)}
