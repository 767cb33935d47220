"""Writes the decision log: what was answered, with propensities and all it was made of.

An answer leaves its decision in a queue. One thread makes lines of all that wait, appends them to the open segment and
syncs once. A full segment is closed; turning it into Parquet is the work of a process of its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feature_repo.decisions.tally import Tally, lost_in_crashes
from serving.gateway.decisions.record import encode
from serving.gateway.decisions.segment_writer import SegmentWriter
from serving.gateway.domain import Query, Ranking
from serving.gateway.errors import Cause, DecisionLogError
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.settings import Sync

RETRY_S: Final = 0.25  # a disk that failed is tried again

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry:
    query: Query
    ranking: Ranking
    written: Future[None] | None  # somebody waits for it


class JsonlDecisionLog:
    """Bounded: what does not fit is refused, never waited for."""

    def __init__(
        self,
        directory: Path,
        *,
        capacity: int,
        segment_bytes: int,
        sync: Sync,
        telemetry: Telemetry,
        write_s: float = 0.02,
        sync_s: float = 1.0,
        on_closed: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._capacity = capacity
        self._sync = sync
        self._write_s = 0.0 if sync is Sync.EACH else write_s
        self._sync_s = sync_s
        self._telemetry = telemetry
        self._waiting: deque[_Entry] = deque()
        self._lines: list[tuple[bytes, Future[None] | None]] = []  # made, and not yet written
        self._failure: OSError | None = None
        self._unsynced_since_s: float | None = None
        self._wake, self._urgent = threading.Event(), threading.Event()
        self._is_closing = False
        self._tally = Tally()
        self._segment = SegmentWriter(directory, segment_bytes=segment_bytes, on_closed=on_closed)
        telemetry.watch(telemetry.decisions_waiting, self._unwritten)
        if lost := lost_in_crashes(directory):
            _log.error("decision log: up to %d decisions were lost when a gateway crashed", lost)
            telemetry.decisions_lost.labels(Cause.CRASH.value).inc(lost)
        self._thread = threading.Thread(target=self._run, name="decision-log", daemon=True)
        self._thread.start()

    async def record(self, query: Query, ranking: Ranking, *, timeout_s: float) -> None:
        if self._unwritten() >= self._capacity:
            self._telemetry.decisions_lost.labels(Cause.QUEUE_FULL.value).inc()
            raise DecisionLogError(Cause.QUEUE_FULL, f"{self._capacity} decisions wait to be written")
        if not ranking.is_randomized:
            self._put(_Entry(query, ranking, None))
        elif self._sync is Sync.EACH:
            await self._written(query, ranking, timeout_s)
        elif self._failure is not None:
            raise DecisionLogError(Cause.DISK, str(self._failure))
        else:
            self._put(_Entry(query, ranking, None))

    def close(self) -> None:
        """Writes what waits, then ends."""
        self._is_closing = True
        self._urgent.set()
        self._wake.set()
        self._thread.join()

    def _unwritten(self) -> int:
        return len(self._waiting) + len(self._lines)

    def _put(self, entry: _Entry) -> None:
        self._tally.accept()
        self._waiting.append(entry)
        if not self._wake.is_set():
            self._wake.set()

    async def _written(self, query: Query, ranking: Ranking, timeout_s: float) -> None:
        written: Future[None] = Future()
        self._put(_Entry(query, ranking, written))
        try:
            await asyncio.wait_for(asyncio.wrap_future(written), timeout_s)
        except TimeoutError:
            raise DecisionLogError(Cause.TIMEOUT, f"not on disk within {timeout_s * 1000:.0f} ms") from None
        except OSError as error:
            raise DecisionLogError(Cause.DISK, str(error)) from error

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.wait(self._until_sync_s())
            self._urgent.wait(RETRY_S if self._failure else self._write_s)  # what comes meanwhile goes along
            self._wake.clear()
            self._write_waiting()
        self._write_waiting()
        if self._lines:
            _log.error("decision log: %d decisions lost: %s", len(self._lines), self._failure)
            self._lose(Cause.DISK, len(self._lines))
        self._segment.close()
        self._tally.close()

    def _until_sync_s(self) -> float | None:
        if self._failure is not None:
            return 0.0
        if self._unsynced_since_s is None:
            return None
        return max(self._unsynced_since_s + self._sync_s - time.monotonic(), 0.0)

    def _write_waiting(self) -> None:
        while self._waiting:
            self._make_line(self._waiting.popleft())
        try:
            self._tally.keep_in(self._directory)
            self._write()
        except OSError as error:
            self._fail(error)
        else:
            self._failure = None

    def _make_line(self, entry: _Entry) -> None:
        try:
            self._lines.append((encode(entry.query, entry.ranking), entry.written))
        except Exception:  # one line must not end the log
            _log.exception("bug: decision %s has no line", entry.ranking.decision_id)
            self._lose(Cause.BUG, 1)
            if entry.written is not None:
                _settle(entry.written, OSError("it could not be encoded"))

    def _write(self) -> None:
        now_s = time.monotonic()
        is_due = self._sync is Sync.EACH or self._is_closing or self._until_sync_s() == 0.0
        if self._lines:
            self._segment.write(b"".join([line for line, _ in self._lines]), sync=is_due)
            self._telemetry.decisions_written.inc(len(self._lines))
            self._tally.settle(len(self._lines))
            for _, written in self._lines:
                _settle(written, None)
            self._lines = []
            self._unsynced_since_s = self._unsynced_since_s or now_s
        elif is_due:
            self._segment.sync()
        if is_due:
            self._unsynced_since_s = None

    def _fail(self, error: OSError) -> None:
        """Lines are kept to be written later, but not those of answers that still wait: these will be made anew."""
        if self._failure is None:
            _log.error("decision log: %d decisions wait for a disk that fails: %s", len(self._lines), error)
        self._failure = error
        self._segment.close()
        kept = [line for line in self._lines if line[1] is None]
        self._tally.settle(len(self._lines) - len(kept))
        for _, written in self._lines:
            _settle(written, error)
        self._lines = kept

    def _lose(self, cause: Cause, count: int) -> None:
        self._telemetry.decisions_lost.labels(cause.value).inc(count)
        self._tally.settle(count)


def _settle(written: Future[None] | None, error: OSError | None) -> None:
    """There may be no waiter, or he may have gone."""
    if written is None or not written.set_running_or_notify_cancel():
        return
    if error is None:
        written.set_result(None)
    else:
        written.set_exception(error)
