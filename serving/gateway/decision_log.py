"""Writes the decision log, `feature_repo.decisions`: what was answered, with propensities and all it was made of.

One thread writes. It takes all that waits, appends it to the open segment, and syncs once. A full segment is closed;
turning it into Parquet is the work of a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np

from feature_repo import decisions
from feature_repo.decision_segments import appending, hold, locked
from serving.gateway.domain import Float32s, Query, Ranking, Scored
from serving.gateway.errors import Cause, DecisionLogError
from serving.gateway.telemetry import Telemetry

_log = logging.getLogger(__name__)

Entry = tuple[bytes, "Future[None]"]


class JsonlDecisionLog:
    """Bounded: what does not fit is refused, never waited for."""

    def __init__(
        self,
        directory: Path,
        *,
        capacity: int,
        segment_bytes: int,
        fsync: bool,
        telemetry: Telemetry,
        on_closed: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._fsync = fsync
        self._telemetry = telemetry
        self._on_closed = on_closed
        self._queue: queue.Queue[Entry | None] = queue.Queue(capacity)
        telemetry.decisions_waiting.set_function(self._queue.qsize)
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
        with locked(appending(self._directory), alone=False):
            file = self._segment()
            file.write(data)
            file.flush()
            if self._fsync:
                os.fsync(file.fileno())
        if file.tell() >= self._segment_bytes:
            file.close()
            self._file = None
            self._on_closed()

    def _segment(self) -> BinaryIO:
        """The open segment, or a new one where it is full, failed, or was replaced to erase a user."""
        if self._file is not None and not _is_in_place(self._file):
            self._file.close()
            self._file = None
        while self._file is None:
            name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
            file = (self._directory / f"{name}-{os.getpid()}{decisions.OPEN_SUFFIX}").open("ab")
            if hold(file) and _is_in_place(file):
                self._file = file
            else:
                file.close()
        return self._file

    def _fail(self, entries: list[Entry], error: OSError) -> None:
        """The next write starts a new segment: this one may end in half a line."""
        _log.error("decision log: %d decisions lost: %s", len(entries), error)
        self._lose(Cause.DISK, len(entries))
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file = None
        for _, written in entries:
            _settle(written, error)

    def _lose(self, cause: Cause, count: int) -> None:
        self._telemetry.decisions_lost.labels(cause.value).inc(count)


def _is_in_place(file: BinaryIO) -> bool:
    try:
        return Path(file.name).stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _settle(written: Future[None], error: OSError | None) -> None:
    """The waiter may have gone."""
    if not written.set_running_or_notify_cancel():
        return
    if error is None:
        written.set_result(None)
    else:
        written.set_exception(error)


def encode(query: Query, ranking: Ranking) -> bytes:
    """One line of `feature_repo.decisions`: all that a replay, off-policy evaluation and an auditor need."""
    user, scored = ranking.user, ranking.scored
    sources = list(dict.fromkeys(candidate.source for candidate in scored.candidates))
    codes = {source: code for code, source in enumerate(sources)}
    categories: list[int] = scored.categories.tolist()
    places = {category: place for place, category in enumerate(dict.fromkeys(categories))}
    line = {
        "v": decisions.SCHEMA_VERSION,
        "decision_id": ranking.decision_id,
        "at_unix_s": ranking.at_unix_s,
        "user_id": query.user_id,
        "unit": ranking.unit,
        "decision": ranking.verdict,
        "reason": ranking.reason,
        "campaign_id": query.campaign.campaign_id if query.campaign else "",
        "contact_propensity": ranking.contact_propensity,
        "state": user.state,
        "days_in_state": user.days_in_state,
        "p_alive": user.p_alive,
        "tail_percentile": user.tail_percentile,
        "history_length": len(user.history),
        "surface": query.surface,
        "channel": query.channel,
        "objective": query.objective,
        "limit": query.limit,
        "explores": ranking.explores,
        "policy_version": ranking.policy_version,
        "experiments": [
            {"layer": one.layer, "name": one.name, "arm": one.arm, "version": one.version}
            for one in ranking.experiments
        ],
        "model_name": ranking.model.name if ranking.model else None,
        "model_version": ranking.model.version if ranking.model else None,
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
        "candidate_item_ids": [candidate.item_id for candidate in scored.candidates],
        "candidate_sources": sources,
        "source_codes": [codes[candidate.source] for candidate in scored.candidates],
        "candidate_categories": [scored.category_names[category] for category in places],
        "category_codes": [places[category] for category in categories],
        "dropped": dict(ranking.dropped),
        "features": [
            {"group": group.name, "status": group.status, "age_s": group.age_s} for group in ranking.groups.values()
        ],
        "degraded": [f"{one.dependency}:{one.cause}" for one in ranking.degradations],
        **decisions.pack(_numbers(scored)),
    }
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _numbers(scored: Scored) -> dict[str, Float32s]:
    single = {
        "novelty": scored.novelty,
        "exposures": scored.exposures,
        "rate": scored.rates,
        "trials": scored.trials,
        **({"relevance": scored.relevance} if scored.is_prior else {}),
    }
    return {"score": scored.scores} | {name: column.astype(np.float32) for name, column in single.items()}
