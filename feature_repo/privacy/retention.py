"""Keeps no event longer than is allowed."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.compute as pc
from ibis import _

from feature_repo.errors import LongtailError
from feature_repo.events import CHOICES
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.log.importing import one_import
from feature_repo.online.loading import one_at_a_time
from feature_repo.online.rows import open_online
from feature_repo.privacy.erasers import rewrite
from feature_repo.settings import FeatureSettings
from feature_repo.stream.state import StreamState, memory_file
from feature_repo.tables.expressions import moment


def prune(state: StateDir, settings: FeatureSettings, *, days: float, now: datetime) -> dict[str, int]:
    """Removes events older than `days`, and quarantine files written before; how many, by file.

    Users of whom no event is left lose their rows online: no later build has a row to put in their place.
    The feedback worker reads what is left of the log anew. Who opted out stays opted out: choices are kept.
    Features and models keep what they learned of them until the next build and training.
    Raises DataError while an import or an erasure is at work, FeatureStoreError while a materialization is.
    """
    if days <= 0:
        raise LongtailError("features.retention_days is 0, which keeps everything; set it to the days to keep")
    cutoff = now - timedelta(days=days)
    log = EventLog(state.events)
    with one_import(state):
        gone = _forget_online(state, settings, cutoff)  # first: once the events are dropped nothing tells who it was
        dropped = {file.name: rewrite(file, partial(_is_before, cutoff=cutoff)) for file in log.import_files()}
        if log.segment_files():
            dropped |= log.drop_before(cutoff)
        if any(dropped.values()):
            _clear_worker(state)
        for file in sorted(state.quarantine.glob("*")):
            if file.stat().st_mtime < cutoff.timestamp():
                file.unlink()
                dropped[f"quarantine/{file.name}"] = 1
    return dropped | ({f"online store: {settings.online_store}, users": gone} if gone else {})


def _clear_worker(state: StateDir) -> None:
    if memory_file(state).exists():
        memory = StreamState(memory_file(state))
        try:
            memory.clear()
        finally:
            memory.close()


def _forget_online(state: StateDir, settings: FeatureSettings, cutoff: datetime) -> int:
    """The users whose last event is before `cutoff`, who made no choice of channels."""
    if not (state.feast / "feature_store.yaml").exists():
        return 0
    events = EventLog(state.events).rows(ibis.duckdb.connect())
    is_kept = (events.event_time >= moment(cutoff)) | events.event_type.isin(CHOICES)
    users = events.group_by("user_id").agg(kept=is_kept.any()).filter(~_.kept).user_id.to_pyarrow()
    online = open_online(state, settings)
    try:
        with one_at_a_time(state):
            return sum(any(online.erase("user_id", user_id).values()) for user_id in users.to_pylist())
    finally:
        online.close()


def _is_before(batch: pa.RecordBatch, cutoff: datetime) -> Any:
    times = batch.column("event_time")
    is_old = pc.less(times, pa.scalar(cutoff, pa.timestamp("us", "UTC")).cast(times.type))
    is_choice = pc.is_in(batch.column("event_type"), value_set=pa.array(CHOICES))
    return pc.and_(is_old, pc.invert(is_choice))
