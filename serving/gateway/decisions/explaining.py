"""Past decisions: found in the log and computed again, off the event loop and one at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa

from feature_repo.decisions import finding
from feature_repo.decisions.lines import DecisionLogReadError
from feature_repo.decisions.records import POLICIES
from feature_repo.errors import LongtailError
from serving.gateway.decisions.replay import Replay, explained, replay
from serving.gateway.domain import RankedItem
from serving.gateway.errors import DecisionArchiveError, DecisionNotFoundError, DecisionUnreadableError
from serving.gateway.policy.book import from_archive

PAUSES_S: Final = (0.05, 0.1, 0.25, 0.6)  # the log writes every 0.02 s; a busy machine or another worker may be later
CLOCK_GRAIN_S: Final = 2.0  # of the times of files

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """`decision` is a row of the decision log; `items` are its answer with terms, as far as these are known."""

    decision: Mapping[str, Any]
    items: tuple[RankedItem, ...]
    differences: tuple[str, ...]


Explain = Callable[[str], Awaitable[Explanation]]
"""decision_id → why; raises RefusalError."""


async def nothing_kept(decision_id: str) -> Explanation:
    """Of a gateway that keeps no decision log."""
    raise DecisionNotFoundError("this gateway keeps no decision log", decision_id=decision_id)


class DecisionArchive:
    """The decision log of a directory, read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decision-archive")

    async def explain(self, decision_id: str) -> Explanation:
        """Waits a moment for a decision that is not there: an answer is out before its line is written."""
        asked_s = time.time()
        decision = await self._apart(self._find, decision_id, 0.0)
        for pause_s in PAUSES_S:
            if decision is not None:
                break
            await asyncio.sleep(pause_s)
            decision = await self._apart(self._find, decision_id, asked_s - CLOCK_GRAIN_S)
        if decision is None:
            raise DecisionNotFoundError(
                f"the decision log has no {decision_id!r}: is the id right? The decisions of an erased user are gone, "
                "and so are those older than what is kept",
                decision_id=decision_id,
            )
        return await self._apart(self._explained, decision)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _apart(self, do: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, do, *given)

    def _find(self, decision_id: str, written_since_s: float) -> Mapping[str, Any] | None:
        try:
            return finding.find(self._directory, decision_id, written_since_s=written_since_s)
        except DecisionLogReadError as error:
            raise DecisionUnreadableError(str(error), decision_id=decision_id) from error
        except OSError as error:
            raise DecisionArchiveError(f"the decision log cannot be read: {error}") from error
        finally:
            pa.default_memory_pool().release_unused()  # what Arrow keeps for this thread's next read is tens of MB

    def _explained(self, decision: Mapping[str, Any]) -> Explanation:
        again = self._again(decision)
        return Explanation(decision=decision, items=explained(decision, again), differences=again.differences)

    def _again(self, decision: Mapping[str, Any]) -> Replay:
        try:
            return replay(decision, from_archive(self._directory / POLICIES, decision["policy_version"]))
        except (LongtailError, KeyError) as error:  # an arm that the policy has no more
            return Replay(items=(), differences=(f"it could not be computed again: {error}",))
