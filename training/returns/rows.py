"""The offline rows of the view `user_returns`."""

from __future__ import annotations

import os
import uuid
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from training.returns.examples import Floats


def write_user_returns(
    path: Path,
    *,
    user_ids: npt.NDArray[np.object_],
    p_return: Floats,
    p_return_contacted: Floats | None,
    horizon_days: float,
    basis: str,
    version: int,
    now: datetime,
) -> None:
    """Replaces the file at once. `now` is the training's: an older row online must give way to it."""
    count = len(user_ids)
    contacted = (
        pa.nulls(count, pa.float32()) if p_return_contacted is None else pa.array(p_return_contacted, pa.float32())
    )
    table = pa.table(
        {
            "user_id": pa.array([str(user) for user in user_ids], pa.string()),
            "event_timestamp": pa.array([now] * count, pa.timestamp("us", tz="UTC")),
            "p_return": pa.array(p_return, pa.float32()),
            "p_return_contacted": contacted,
            "horizon_days": pa.array(np.full(count, horizon_days), pa.float32()),
            "basis": pa.array([basis] * count, pa.string()),
            "returns_model_version": pa.array([version] * count, pa.int64()),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        pq.write_table(table, draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
