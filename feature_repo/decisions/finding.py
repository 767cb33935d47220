"""One decision, found by its name, without reading the others."""

from __future__ import annotations

import json
import math
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.decisions.records import (
    CLOSED_SUFFIX,
    OPEN_SUFFIX,
    SCHEMA,
    as_of_now,
    check_version,
    decode,
    segments,
)

ROWS_AT_ONCE: Final = 32  # of a closed segment; a row has all its candidates


def find(directory: Path, decision_id: str, *, written_since_s: float = 0.0) -> dict[str, Any] | None:
    """The decision of that name as it was answered, or None. Looks at the newest segments first.

    `written_since_s`, seconds since 1970, leaves out the segments that nobody wrote to since.
    """
    for path in reversed(segments(directory)):
        if _written_s(path) < written_since_s:
            continue
        for row in _row_of(path, decision_id).to_pylist():
            found: dict[str, Any] = row
            return found
    return None


def _written_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # closed since it was listed
        return math.inf


def _row_of(path: Path, decision_id: str) -> pa.Table:
    """At most one row, the last of that name; little else is ever in memory."""
    if path.suffix == OPEN_SUFFIX and path.exists():
        name = f'"decision_id":{json.dumps(decision_id, ensure_ascii=False)}'.encode()
        with path.open("rb") as lines:  # a line at a time: a segment may have 64 MB
            found = deque((line for line in lines if name in line and line.endswith(b"}\n")), maxlen=1)
        return decode(found, where=path)
    return _row_of_closed(path.with_suffix(CLOSED_SUFFIX), decision_id)


def _row_of_closed(path: Path, decision_id: str) -> pa.Table:
    """Looks for the name alone, and reads the rest of a few rows around it: those of a group take tens of MB."""
    with pq.ParquetFile(path) as file:
        check_version(path, file.schema_arrow)
        for group in reversed(range(file.num_row_groups)):
            if not _may_have(file.metadata.row_group(group).column(0).statistics, decision_id):
                continue
            names = file.read_row_group(group, ["decision_id"], use_threads=False)["decision_id"]
            if places := pc.indices_nonzero(pc.equal(names, decision_id)).to_pylist():
                batches = file.iter_batches(ROWS_AT_ONCE, [group], use_threads=False)
                batch, row = divmod(places[-1], ROWS_AT_ONCE)
                near = pa.Table.from_batches([next(islice(batches, batch, None))])
                return as_of_now(near.slice(row, 1), SCHEMA.names)
    return SCHEMA.empty_table()


def _may_have(statistics: pq.Statistics | None, decision_id: str) -> bool:
    return statistics is None or not statistics.has_min_max or statistics.min <= decision_id <= statistics.max
