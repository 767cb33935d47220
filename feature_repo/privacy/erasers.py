"""What removes a user from each place in the state directory and from the online store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.decisions import segments as decision_segments
from feature_repo.decisions.campaigns import Campaigns
from feature_repo.drafts import draft, remove_left
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.online.rows import open_online
from feature_repo.settings import FeatureSettings
from feature_repo.stream.state import StreamState, memory_file
from feature_repo.tabular import DataError

_BATCH_ROWS: Final = 50_000
_ID_COLUMNS: Final = ("user_id", "user")


@dataclass(frozen=True, kw_only=True)
class Holder:
    """One place. `erase` returns what it removed, by the name of its part; 0 is that there was nothing."""

    name: str
    erase: Callable[[str], Mapping[str, int]]


def known_holders(state: StateDir, settings: FeatureSettings) -> list[Holder]:
    """Events before what is made of them, and the worker's memory before the rows that it writes."""
    memory = memory_file(state)

    def segments(user_id: str) -> Mapping[str, int]:
        return EventLog(state.events).erase(user_id)

    def worker(user_id: str) -> Mapping[str, int]:
        if not memory.exists():
            return {}
        opened = StreamState(memory)
        try:
            return opened.erase(user_id)
        finally:
            opened.close()

    def online(user_id: str) -> Mapping[str, int]:
        if not (state.feast / "feature_store.yaml").exists():
            return {}
        opened = open_online(state, settings)
        try:
            return opened.erase("user_id", user_id)
        finally:
            opened.close()

    def campaigns(user_id: str) -> Mapping[str, int]:
        return {"decided": Campaigns(state.campaigns).erase(user_id)} if state.campaigns.exists() else {}

    def left(_user_id: str) -> Mapping[str, int]:
        return {"files and folders": remove_left(state.root)}

    return [
        Holder(name="left by processes that were killed", erase=left),
        Holder(name="event log: feedback", erase=segments),
        Holder(name="tables", erase=lambda user_id: _from_tables(state, user_id)),
        Holder(name="quarantine", erase=lambda user_id: _from_quarantine(state, user_id)),
        Holder(name="feedback worker", erase=worker),
        Holder(name=f"online store: {settings.online_store}", erase=online),
        Holder(
            name="decision log",
            erase=lambda user_id: {"decisions": decision_segments.erase_user(state.decisions, user_id)},
        ),
        Holder(name="campaigns", erase=campaigns),
    ]


def _from_tables(state: StateDir, user_id: str) -> dict[str, int]:
    """Every Parquet file with users: imports, features, weights, what a training or a command left here."""
    counts = {}
    for file in sorted(state.root.rglob("*.parquet")):
        if {state.downloads, state.quarantine, state.decisions} & set(file.parents):
            continue
        names = [name for name in _schema(file).names if name in _ID_COLUMNS]
        if names:
            counts[str(file.relative_to(state.root))] = rewrite(file, partial(_is, names=names, user_id=user_id))
    return counts


def _from_quarantine(state: StateDir, user_id: str) -> dict[str, int]:
    """Refused rows have the columns that the file had: the user's are those with the id in any of them."""
    counts = {}
    for file in sorted(state.quarantine.glob("*.parquet")):
        names = [name for name in _schema(file).names if name != "quarantine_reason"]
        counts[file.name] = rewrite(file, partial(_names_user, names=names, user_id=user_id))
    return counts


def rewrite(file: Path, is_dropped: Callable[[pa.RecordBatch], Any]) -> int:
    """Puts the file without the rows in its place, by a rename; untouched when there are none. The rows dropped."""
    with pq.ParquetFile(file) as table:
        dropped = sum(int(pc.sum(is_dropped(batch)).as_py() or 0) for batch in table.iter_batches(_BATCH_ROWS))
        if not dropped:
            return 0
        with (
            draft(file) as unfinished,
            pq.ParquetWriter(unfinished, table.schema_arrow, compression="zstd") as writer,
        ):
            for batch in table.iter_batches(_BATCH_ROWS):
                writer.write_batch(batch.filter(pc.invert(is_dropped(batch))))
    return dropped


def _is(batch: pa.RecordBatch, names: list[str], user_id: str) -> Any:
    """Whether a row is the user's; ids may be numbers in a table that is not ours."""
    found = pa.array([False] * batch.num_rows)
    for name in names:
        cells = batch.column(name)
        if pa.types.is_nested(cells.type):
            continue
        found = pc.or_(found, pc.fill_null(pc.equal(_texts(cells), user_id), False))
    return found


def _texts(cells: pa.Array) -> Any:
    """The cells as an import makes ids of them; Arrow's own words for some of them differ, or it has none."""
    kind = cells.type
    if pa.types.is_floating(kind) or pa.types.is_binary(kind) or isinstance(kind, pa.BaseExtensionType):
        return pa.array([None if cell is None else _text(cell) for cell in cells.to_pylist()], pa.string())
    return cells.cast(pa.string())


def _text(cell: object) -> str:
    if isinstance(cell, bytes):
        return cell.decode(errors="replace")
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _names_user(batch: pa.RecordBatch, names: list[str], user_id: str) -> Any:
    found = _is(batch, [name for name in names if name != "quarantine_line"], user_id)
    if "quarantine_line" in names:  # a malformed line of a CSV file, as it was
        fields = [
            {part.strip().strip('"') for part in _cut(line)} for line in batch.column("quarantine_line").to_pylist()
        ]
        found = pc.or_(found, pa.array([user_id in each for each in fields]))
    return found


def _cut(line: str | None) -> list[str]:
    for separator in (";", "\t", "|"):
        line = (line or "").replace(separator, ",")
    return (line or "").split(",")


def _schema(file: Path) -> Any:
    try:
        return pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}; remove it or restore it from a backup") from error
