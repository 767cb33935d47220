"""The decision log: what was answered, with propensities, as JSON lines under `StateDir.decisions`.

One thread writes. It takes all that waits, writes it, and syncs once. A decision may stand there twice, after a
retry or when its first line came too late: the last line of a decision_id is what was answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import threading
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from serving.gateway.domain import Query, Ranking
from serving.gateway.errors import Cause, DecisionLogError
from serving.gateway.telemetry import Telemetry

_log = logging.getLogger(__name__)

Entry = tuple[bytes, "Future[None]"]


class JsonlDecisionLog:
    """Bounded: what does not fit is refused, never waited for."""

    def __init__(
        self, directory: Path, *, capacity: int, segment_bytes: int, fsync: bool, telemetry: Telemetry
    ) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._fsync = fsync
        self._telemetry = telemetry
        self._queue: queue.Queue[Entry | None] = queue.Queue(capacity)
        self._file: BinaryIO | None = None
        self._thread = threading.Thread(target=self._write_all, name="decision-log", daemon=True)
        self._thread.start()

    async def record(self, query: Query, ranking: Ranking, *, timeout_s: float) -> None:
        written: Future[None] = Future()
        try:
            self._queue.put_nowait((encode(query, ranking), written))
        except queue.Full:
            self._lose(Cause.QUEUE_FULL, 1)
            raise DecisionLogError(Cause.QUEUE_FULL, f"{self._queue.maxsize} decisions wait to be written") from None
        if not ranking.is_randomized:
            return
        try:
            await asyncio.wait_for(asyncio.wrap_future(written), timeout_s)
        except TimeoutError:
            raise DecisionLogError(Cause.TIMEOUT, f"not on disk within {timeout_s * 1000:.0f} ms") from None
        except OSError as error:
            raise DecisionLogError(Cause.DISK, str(error)) from error

    def close(self) -> None:
        """Writes what waits, then ends."""
        self._queue.put(None)
        self._thread.join()

    def _write_all(self) -> None:
        is_open = True
        while is_open:
            entries, is_open = self._take()
            if not entries:
                continue
            try:
                self._write(b"".join(line for line, _ in entries))
            except OSError as error:
                self._fail(entries, error)
            else:
                self._telemetry.decisions_written.inc(len(entries))
                for _, written in entries:
                    _settle(written, None)
        if self._file is not None:
            self._file.close()

    def _take(self) -> tuple[list[Entry], bool]:
        """Waits for one entry, then takes all that are there; False at the end."""
        entries: list[Entry] = []
        entry = self._queue.get()
        while entry is not None:
            entries.append(entry)
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return entries, True
        return entries, False

    def _write(self, data: bytes) -> None:
        file = self._segment()
        file.write(data)
        file.flush()
        if self._fsync:
            os.fsync(file.fileno())

    def _segment(self) -> BinaryIO:
        if self._file is not None and self._file.tell() < self._segment_bytes:
            return self._file
        if self._file is not None:
            self._file.close()
        self._directory.mkdir(parents=True, exist_ok=True)
        name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        self._file = (self._directory / f"{name}-{os.getpid()}.jsonl").open("ab")
        return self._file

    def _fail(self, entries: list[Entry], error: OSError) -> None:
        """The next write starts a new segment: this one may end in half a line."""
        _log.error("decision log: %d decisions lost: %s", len(entries), error)
        self._lose(Cause.DISK, len(entries))
        self._file = None
        for _, written in entries:
            _settle(written, error)

    def _lose(self, cause: Cause, count: int) -> None:
        self._telemetry.decisions_lost.labels(cause.value).inc(count)


def _settle(written: Future[None], error: OSError | None) -> None:
    """The waiter may have gone."""
    if not written.set_running_or_notify_cancel():
        return
    if error is None:
        written.set_result(None)
    else:
        written.set_exception(error)


def encode(query: Query, ranking: Ranking) -> bytes:
    """One line: all that off-policy evaluation and an auditor need."""
    line = {
        "decision_id": ranking.decision_id,
        "at": datetime.fromtimestamp(ranking.at_unix_s, UTC).isoformat(),
        "user_id": query.user_id,
        "state": ranking.user.state,
        "surface": query.surface,
        "channel": query.channel,
        "objective": query.objective,
        "policy_version": ranking.policy_version,
        "experiment": ranking.experiment.name,
        "arm": ranking.experiment.arm,
        "model_name": ranking.model.name if ranking.model else None,
        "model_version": ranking.model.version if ranking.model else None,
        "limit": query.limit,
        "items": [
            {
                "item_id": item.item_id,
                "rank": item.rank,
                "score": item.score,
                "value": item.value,
                "propensity": item.propensity,
                "source": item.source,
                "is_exploration": item.is_exploration,
            }
            for item in ranking.items
        ],
        "dropped": dict(ranking.dropped),
        "degraded": [f"{one.dependency}:{one.cause}" for one in ranking.degradations],
    }
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
