"""Keeps no event longer than is allowed."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.errors import LongtailError
from feature_repo.events import CHOICES
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.log.importing import one_import
from feature_repo.privacy.erasers import rewrite


def prune(state: StateDir, *, days: float, now: datetime) -> dict[str, int]:
    """Removes events older than `days`, and quarantine files written before; how many, by file.

    Who opted out stays opted out: the choices of channels are kept.
    Features and models keep what they learned of them until the next build and training.
    Raises DataError while an import or an erasure is at work.
    """
    if days <= 0:
        raise LongtailError("features.retention_days is 0, which keeps everything; set it to the days to keep")
    cutoff = now - timedelta(days=days)
    log = EventLog(state.events)
    with one_import(state):
        dropped = {file.name: rewrite(file, partial(_is_before, moment=cutoff)) for file in log.import_files()}
        if log.segment_files():
            dropped |= log.drop_before(cutoff)
        for file in sorted(state.quarantine.glob("*")):
            if file.stat().st_mtime < cutoff.timestamp():
                file.unlink()
                dropped[f"quarantine/{file.name}"] = 1
    return dropped


def _is_before(batch: pa.RecordBatch, moment: datetime) -> Any:
    times = batch.column("event_time")
    is_old = pc.less(times, pa.scalar(moment, pa.timestamp("us", "UTC")).cast(times.type))
    is_choice = pc.is_in(batch.column("event_type"), value_set=pa.array(CHOICES))
    return pc.and_(is_old, pc.invert(is_choice))
