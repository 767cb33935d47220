"""The decision log's schema, and how to read it: what was answered, to whom, from which candidates, by which draw.

Under `StateDir.decisions` lie `<time>-<process>.jsonl` while a gateway writes it and `<time>-<process>.parquet` after;
`policies/` keeps every policy that decided. A decision may stand there more than once, after a retry or when its first
line came too late: the last one of a decision_id is what was answered, and `read` gives only that, as `finding` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.decisions.lines import (
    CANDIDATE_NUMBERS,
    DecisionLogReadError,
    categories_of,
    numbers_of,
    parse,
    sources_of,
)

SCHEMA_VERSION: Final = 1
OPEN_SUFFIX: Final = ".jsonl"
CLOSED_SUFFIX: Final = ".parquet"
POLICIES: Final = "policies"

_ITEM: Final = pa.struct(
    [
        ("item_id", pa.string()),
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("value", pa.float64()),
        ("propensity", pa.float64()),
        ("source", pa.string()),
        ("is_exploration", pa.bool_()),
    ]
)
_EXPERIMENT: Final = pa.struct(
    [("layer", pa.string()), ("name", pa.string()), ("arm", pa.string()), ("version", pa.string())]
)
_FEATURES: Final = pa.struct([("group", pa.string()), ("status", pa.string()), ("age_s", pa.float64())])

SCHEMA: Final = pa.schema(
    [
        ("decision_id", pa.string()),
        ("at_unix_s", pa.float64()),
        ("user_id", pa.string()),  # empty: anonymous
        ("unit", pa.string()),  # who was randomised
        ("decision", pa.string()),  # "show", "hold_out" or "suppressed"
        ("reason", pa.string()),
        ("campaign_id", pa.string()),  # empty: an answer to RankItems
        ("contact_propensity", pa.float64()),  # probability that the user was not held out
        ("state", pa.string()),
        ("days_in_state", pa.float64()),
        ("p_alive", pa.float64()),
        ("tail_percentile", pa.float64()),
        ("history_length", pa.int32()),
        ("surface", pa.string()),
        ("channel", pa.string()),
        ("objective", pa.string()),  # as asked: "auto" is the state's
        ("limit", pa.int32()),
        ("explores", pa.bool_()),  # False: the log failed, and the answer was arranged anew without exploration
        ("policy_version", pa.string()),
        ("experiments", pa.list_(_EXPERIMENT)),
        ("model_name", pa.string()),  # missing: the prior ordered
        ("model_version", pa.int64()),
        # For a hold-out, the items that would have been shown.
        ("items", pa.list_(_ITEM)),
        # The eligible candidates, in the order they were scored.
        ("candidate_item_ids", pa.list_(pa.string())),
        ("candidate_sources", pa.list_(pa.string())),
        ("candidate_categories", pa.list_(pa.string())),
        *((f"candidate_{name}", pa.list_(pa.float32())) for name in CANDIDATE_NUMBERS),
        ("dropped", pa.map_(pa.string(), pa.int64())),
        ("features", pa.list_(_FEATURES)),
        # What the model was told of the user, `contract.MODEL_USER_FEATURES`, null is missing. Null as a whole for a
        # caller who gave a history or a moment of their own, and in logs from before it was kept.
        ("user_features", pa.list_(pa.float32())),
        ("degraded", pa.list_(pa.string())),  # dependency:cause
    ],
    metadata={"longtail.decisions.schema_version": str(SCHEMA_VERSION)},
)

_LATER: Final = ("unit", "user_features")  # older lines lack them
_PLAIN: Final = tuple(
    name for name in SCHEMA.names if not name.startswith("candidate_") and name not in ("dropped", *_LATER)
)


def decode(lines: Sequence[bytes], *, where: Path) -> pa.Table:
    """Lines of an open segment as the schema has them. A last line that a crash cut short is left out."""
    return to_table([line for line, _ in parse(lines, where=where)])


def to_table(lines: Sequence[Mapping[str, Any]]) -> pa.Table:
    columns: dict[str, pa.Array] = {
        name: pa.array([line[name] for line in lines], SCHEMA.field(name).type) for name in _PLAIN
    }
    columns["unit"] = pa.array([line.get("unit", line["user_id"]) for line in lines], pa.string())
    columns["user_features"] = pa.array(
        [line.get("user_features") for line in lines], SCHEMA.field("user_features").type
    )
    columns["dropped"] = pa.array([list(line["dropped"].items()) for line in lines], SCHEMA.field("dropped").type)
    ids = [line["candidate_item_ids"] for line in lines]
    columns["candidate_item_ids"] = pa.array(ids, pa.list_(pa.string()))
    columns["candidate_sources"] = pa.array([sources_of(line) for line in lines], pa.list_(pa.string()))
    columns["candidate_categories"] = pa.array([categories_of(line) for line in lines], pa.list_(pa.string()))
    offsets = pa.array(np.cumsum([0, *map(len, ids)]), pa.int32())
    numbers = [numbers_of(line) for line in lines]
    for name in CANDIDATE_NUMBERS:
        flat = np.concatenate([one[name] for one in numbers]) if numbers else np.empty(0, np.float32)
        columns[f"candidate_{name}"] = pa.ListArray.from_arrays(offsets, pa.array(flat, pa.float32()))
    return pa.table(columns, schema=SCHEMA)


def segments(directory: Path) -> list[Path]:
    """Oldest first, each segment once: while it is being closed, both of its files are there for a moment."""
    closed = {path.stem: path for path in directory.glob(f"*{CLOSED_SUFFIX}")}
    opened = {path.stem: path for path in directory.glob(f"*{OPEN_SUFFIX}")}
    return [path for _, path in sorted((opened | closed).items())]


def load(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """One segment; raises DecisionLogReadError."""
    try:
        if path.suffix == OPEN_SUFFIX:
            table = decode(path.read_bytes().splitlines(), where=path)
            return table if columns is None else table.select(columns)
        return _load_closed(path, SCHEMA.names if columns is None else columns)
    except FileNotFoundError:
        closed = path.with_suffix(CLOSED_SUFFIX)
        if path.suffix == OPEN_SUFFIX and closed.exists():  # closed since it was listed
            return load(closed, columns)
        raise
    except pa.ArrowInvalid as error:
        raise DecisionLogReadError(f"{path} is no segment of the decision log: {error}") from error


def read(directory: Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Every decision as it was answered, oldest first; `columns` of `SCHEMA`, all by default."""
    wanted = SCHEMA.names if columns is None else list(dict.fromkeys(columns))
    needed = list(dict.fromkeys(("decision_id", *wanted)))
    parts = [load(path, needed) for path in segments(directory)]
    empty = pa.schema([SCHEMA.field(name) for name in needed]).empty_table()
    table = pa.concat_tables([empty, *(part.replace_schema_metadata(None) for part in parts)])
    rows = table.select(["decision_id"]).append_column("row", pa.array(np.arange(len(table))))
    last = rows.group_by("decision_id").aggregate([("row", "max")])["row_max"]
    return table.take(last.take(pc.sort_indices(last))).select(wanted)


def _load_closed(path: Path, columns: Sequence[str]) -> pa.Table:
    schema = pq.read_schema(path)
    check_version(path, schema)
    return as_of_now(pq.read_table(path, columns=[name for name in columns if name in schema.names]), columns)


def as_of_now(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """A column that came later is null in an older segment."""
    for name in columns:
        if name in _LATER and name not in table.column_names:
            table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
    return table.select(columns)


def check_version(path: Path, schema: pa.Schema) -> None:
    """Raises DecisionLogReadError where the segment has another schema version."""
    version = (schema.metadata or {}).get(b"longtail.decisions.schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise DecisionLogReadError(
            f"{path} has schema version {version}, this longtail reads {SCHEMA_VERSION}; "
            "read it with the version that wrote it"
        )
