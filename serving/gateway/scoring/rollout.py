"""Which version answers whom: TensorFlow Serving's labels, and a hash of the user.

A share of the users has the canary's answers, always the same users. What others would have got from the shadow is
measured beside the answer: it is asked after the answer is given, by few calls at a time, and never waited for.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from contextvars import Context
from typing import Final

import numpy as np

from serving.gateway.domain import ItemId, ModelUser, Scores, UserId
from serving.gateway.errors import ModelError
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.ports import Scorer
from serving.gateway.settings import RolloutSettings

TOP: Final = 10
CANARYS_PART: Final = 0.6  # of the time that there is; the rest is for the stable version, should it be needed
SHADOW_TIMEOUT_S: Final = 1.0


class Rollout:
    """A scorer made of scorers, one for each label. None where a label is not set."""

    def __init__(
        self,
        settings: RolloutSettings,
        *,
        stable: Scorer,
        canary: Scorer | None = None,
        shadow: Scorer | None = None,
        telemetry: Telemetry,
    ) -> None:
        self._settings = settings
        self._stable = stable
        self._canary = canary
        self._shadow = shadow
        self._telemetry = telemetry
        self._shadows: set[asyncio.Task[None]] = set()

    async def score(
        self, user: ModelUser, item_ids: Sequence[ItemId], *, timeout_s: float, is_low: bool = False
    ) -> Scores:
        """Raises ModelError. When the canary fails or is late, the stable version stands in for it."""
        until_s = time.monotonic() + timeout_s
        scores = None
        if self._has_canary(user.user_id):
            assert self._canary is not None
            try:
                scores = await self._canary.score(user, item_ids, timeout_s=timeout_s * CANARYS_PART, is_low=is_low)
            except ModelError as error:
                self._telemetry.canary_failures.labels(error.cause.value).inc()
        if scores is None:
            left_s = max(until_s - time.monotonic(), 0.0)
            scores = await self._stable.score(user, item_ids, timeout_s=left_s, is_low=is_low)
        self._telemetry.scored.labels(scores.model.label, str(scores.model.version)).inc()
        self._cast_shadow(user, item_ids, scores)
        return scores

    async def retrieve(self, user: ModelUser, *, timeout_s: float) -> tuple[ItemId, ...]:
        """Raises ModelError."""
        until_s = time.monotonic() + timeout_s
        if self._has_canary(user.user_id):
            assert self._canary is not None
            try:
                return await self._canary.retrieve(user, timeout_s=timeout_s * CANARYS_PART)
            except ModelError as error:
                self._telemetry.canary_failures.labels(error.cause.value).inc()
        return await self._stable.retrieve(user, timeout_s=max(until_s - time.monotonic(), 0.0))

    async def close(self) -> None:
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)

    def _has_canary(self, user_id: UserId) -> bool:
        share = self._settings.canary_share
        return self._canary is not None and falls_within(share, user_id, salt=self._settings.canary_label)

    def _cast_shadow(self, user: ModelUser, item_ids: Sequence[ItemId], answered: Scores) -> None:
        settings = self._settings
        if self._shadow is None or not falls_within(settings.shadow_share, user.user_id, salt=settings.shadow_label):
            return
        if len(self._shadows) >= settings.shadow_calls:
            self._telemetry.shadows.labels("left_out").inc()
            return
        work = self._compare(self._shadow, user, item_ids, answered)
        task = asyncio.get_running_loop().create_task(work, context=Context())  # of no request, and no trace
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _compare(self, shadow: Scorer, user: ModelUser, item_ids: Sequence[ItemId], answered: Scores) -> None:
        try:
            scores = await shadow.score(user, item_ids, timeout_s=SHADOW_TIMEOUT_S, is_low=True)
        except ModelError as error:
            self._telemetry.shadows.labels(error.cause.value).inc()
            return
        self._telemetry.shadows.labels("compared").inc()
        self._telemetry.shadow_difference.observe(float(np.abs(scores.values - answered.values).mean()))
        self._telemetry.shadow_overlap.observe(overlap(scores, answered))


def falls_within(share: float, user_id: UserId, *, salt: str) -> bool:
    """A larger share keeps the users of a smaller one. The anonymous, who cannot be told apart, never do."""
    if not user_id or not share:
        return False
    digest = hashlib.blake2b(f"{salt}\0{user_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def overlap(one: Scores, another: Scores) -> float:
    """How many of the best ten are the same, as a share."""
    count = min(TOP, len(one.values))
    best = [set(np.argsort(-scores.values, kind="stable")[:count].tolist()) for scores in (one, another)]
    return len(best[0] & best[1]) / count if count else 1.0
