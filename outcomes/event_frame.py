"""The event log as a frame, for the analyses that are small enough for memory."""

from __future__ import annotations

from pathlib import Path

import ibis
import numpy as np
import pandas as pd

from feature_repo.log.event_log import EventLog

COLUMNS = ("event_id", "user_id", "item_id", "event_type", "event_time", "surface", "decision_id")


def read_events(directory: Path) -> pd.DataFrame:
    """event_id, user_id, item_id, event_type, unix_s, surface, decision_id; one row an event_id."""
    con = ibis.duckdb.connect()
    try:
        frame: pd.DataFrame = con.to_pyarrow(EventLog(directory).table(con).select(*COLUMNS)).to_pandas()
    finally:
        con.disconnect()
    times = frame.pop("event_time").astype("datetime64[us, UTC]").astype(np.int64)
    for name in ("surface", "decision_id", "item_id"):
        frame[name] = frame[name].fillna("")
    return frame.assign(unix_s=times.to_numpy() / 1e6)
