"""A dependency that fails again and again is not waited for: calls fail at once until one that is let through works."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from serving.gateway.domain import ItemId, ModelUser, Rows, Scores, UserId
from serving.gateway.errors import Cause, DependencyError, FeaturesError, ModelError
from serving.gateway.ports import FeatureReader, Scorer

FAILURES: Final = frozenset({Cause.TIMEOUT, Cause.UNAVAILABLE})  # a bad answer is an answer
LEAST_WAIT_S: Final = 0.05  # a caller who gives less time says nothing about the dependency
LONGEST_OPEN_S: Final = 2.0


class Breaker:
    """Opens after so many failures in a row, for `open_s`, then lets one call through; twice as long if that fails."""

    def __init__(self, *, failures: int, open_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = failures
        self._first_open_s = open_s
        self._clock = clock
        self._failures = 0
        self._open_s = open_s
        self._open_until_s = float("-inf")
        self._is_probing = False

    @contextmanager
    def guard(self, error: type[DependencyError], *, timeout_s: float) -> Iterator[None]:
        """Raises that error, CIRCUIT_OPEN, in place of the call; learns from what the call raises."""
        if self._is_open():
            left_s = max(self._open_until_s - self._clock(), 0.0)
            raise error(Cause.CIRCUIT_OPEN, f"{self._failures} calls in a row failed; next try in {left_s:.1f} s")
        self._is_probing = self._failures >= self._most
        try:
            yield
        except DependencyError as failure:
            if failure.cause is Cause.TIMEOUT and timeout_s < LEAST_WAIT_S:
                self._is_probing = False
            elif failure.cause in FAILURES:
                self._fail()
            else:
                self._close()
            raise
        except BaseException:
            self._is_probing = False
            raise
        else:
            self._close()

    def _is_open(self) -> bool:
        return self._failures >= self._most and (self._is_probing or self._clock() < self._open_until_s)

    def _fail(self) -> None:
        self._failures += 1
        if self._is_probing:
            self._open_s = min(2 * self._open_s, LONGEST_OPEN_S)
        if self._failures >= self._most:
            self._open_until_s = self._clock() + self._open_s
        self._is_probing = False

    def _close(self) -> None:
        self._failures, self._open_s, self._is_probing = 0, self._first_open_s, False


class GuardedFeatures:
    """A FeatureReader behind a breaker."""

    def __init__(self, reader: FeatureReader, breaker: Breaker) -> None:
        self._reader = reader
        self._breaker = breaker

    async def read(self, user_id: UserId, *, timeout_s: float) -> Rows:
        with self._breaker.guard(FeaturesError, timeout_s=timeout_s):
            return await self._reader.read(user_id, timeout_s=timeout_s)


class GuardedScorer:
    """A Scorer behind a breaker, which ranking and retrieval share: they are one server."""

    def __init__(self, scorer: Scorer, breaker: Breaker) -> None:
        self._scorer = scorer
        self._breaker = breaker

    async def score(
        self, user: ModelUser, item_ids: Sequence[ItemId], *, timeout_s: float, is_low: bool = False
    ) -> Scores:
        with self._breaker.guard(ModelError, timeout_s=timeout_s):
            return await self._scorer.score(user, item_ids, timeout_s=timeout_s, is_low=is_low)

    async def retrieve(self, user: ModelUser, *, timeout_s: float) -> tuple[ItemId, ...]:
        with self._breaker.guard(ModelError, timeout_s=timeout_s):
            return await self._scorer.retrieve(user, timeout_s=timeout_s)
