"""Feast's SQLite store: one table per view, one line per entity and feature; a batch is one transaction.

Feast keeps an event time as the epoch second of its naive UTC reading, taken as local: the same on a machine in UTC.
"""

# ruff: noqa: S608  tables are named after the contract's views
from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from feature_repo.contract import VIEWS, Dtype, Feature, View
from feature_repo.online.rows import Int64s, Row, decoded_row, filled, unix_seconds
from feature_repo.online.store import FeatureStoreError
from feature_repo.online.streamed import built_features, streamed_features
from feature_repo.online.value_bytes import encode_column
from feature_repo.online.value_format import entity_key, entity_keys, table_name

BUSY_S: Final = 30.0
_READ_KEYS: Final = 500  # SQLite's limit on parameters is 999 in old builds

_INSERT: Final = (
    "INSERT INTO {table} AS here (entity_key, feature_name, value, value_text, event_ts) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (entity_key, feature_name) DO "
)
_REPLACE: Final = _INSERT + "UPDATE SET value = excluded.value, value_text = excluded.value_text, event_ts = "
_ALWAYS: Final = _REPLACE + "excluded.event_ts"
_LATER: Final = _REPLACE + "max(here.event_ts, excluded.event_ts)"  # a value of the build in a row that stays newer
_NOT_OLDER: Final = _ALWAYS + " WHERE excluded.event_ts >= here.event_ts"
_MISSING: Final = _INSERT + "NOTHING"


class SqliteOnline:
    """Opens its file when it is first needed. Any thread may call it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None

    def load(self, view: View, batch: pa.RecordBatch) -> int:
        streamed, built = streamed_features(view), built_features(view)
        with self._transaction(view) as con:
            _put(con, _LATER if streamed else _ALWAYS, view, batch, built)
            written = _put(con, _NOT_OLDER, view, batch, streamed)
        return batch.num_rows - written // len(streamed) if streamed else 0

    def stream(self, view: View, batch: pa.RecordBatch) -> None:
        streamed, built = streamed_features(view), built_features(view)
        with self._transaction(view) as con:
            _put(con, _LATER, view, batch, streamed)
            _put(con, _MISSING, view, filled(batch, built), built)
            keys = entity_keys(view.entity, batch.column(view.entity)).to_pylist()
            aligned = f"UPDATE {table_name(view)} SET event_ts = ? WHERE entity_key = ? AND event_ts < ?"
            con.executemany(aligned, [(time, key, time) for time, key in zip(_times(batch), keys, strict=True)])

    def read(self, view: View, entity_ids: Sequence[str]) -> list[Row | None]:
        found: dict[bytes, tuple[int, dict[str, bytes | None]]] = {}
        for key, feature, value, time in self._select(view, "feature_name, value, event_ts", entity_ids):
            found.setdefault(key, (time, {}))[1][feature] = value
        keys = [entity_key(view.entity, entity_id) for entity_id in entity_ids]
        return [
            decoded_row(view, entity_id, event_unix_s(found[key][0]), found[key][1]) if key in found else None
            for entity_id, key in zip(entity_ids, keys, strict=True)
        ]

    def times(self, view: View, entity_ids: Sequence[str]) -> Int64s:
        times = dict(self._select(view, "max(event_ts)", entity_ids, " GROUP BY entity_key"))
        keys = [entity_key(view.entity, entity_id) for entity_id in entity_ids]
        return np.array([event_unix_s(times[key]) if key in times else 0 for key in keys], np.int64)

    def erase(self, entity: str, entity_id: str) -> dict[str, int]:
        counts = {}
        for view in (view for view in VIEWS if view.entity == entity):
            with self._transaction(view) as con:
                deleted = con.execute(
                    f"DELETE FROM {table_name(view)} WHERE entity_key = ?", [entity_key(entity, entity_id)]
                )
                counts[view.name] = deleted.rowcount
        with self._lock, _explained("the erasure"):
            self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the old pages leave the log too
        return counts

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
            self._opened = None

    @contextmanager
    def _transaction(self, view: View) -> Iterator[sqlite3.Connection]:
        with self._lock, _explained(view.name):
            con = self._connection()
            con.execute("BEGIN IMMEDIATE")
            try:
                yield con
            except BaseException:
                con.rollback()
                raise
            con.commit()

    def _select(self, view: View, what: str, entity_ids: Sequence[str], group: str = "") -> list[tuple[Any, ...]]:
        keys = [entity_key(view.entity, entity_id) for entity_id in entity_ids]
        found: list[tuple[Any, ...]] = []
        with self._lock, _explained(view.name):
            for start in range(0, len(keys), _READ_KEYS):
                some = keys[start : start + _READ_KEYS]
                marks = ", ".join("?" * len(some))
                sql = f"SELECT entity_key, {what} FROM {table_name(view)} WHERE entity_key IN ({marks}){group}"
                found += self._connection().execute(sql, some).fetchall()
        return found

    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            if not self._file.exists():
                raise sqlite3.OperationalError(f"there is no {self._file}")
            con = sqlite3.connect(self._file, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            con.execute("PRAGMA synchronous = NORMAL")  # with write-ahead logging: a crash loses no consistency
            con.execute("PRAGMA secure_delete = ON")  # what is erased is overwritten
            self._opened = con
        return self._opened


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise FeatureStoreError(
            f"the online store did not take or give {what}: {error}; was `longtail features apply` run, and is there "
            "space on the disk?"
        ) from error


def _put(con: sqlite3.Connection, sql: str, view: View, batch: pa.RecordBatch, features: Sequence[Feature]) -> int:
    """One line per row and feature, those of a row together: they lie together in the index. Lines written."""
    if not features or not batch.num_rows:
        return 0
    keys, times = entity_keys(view.entity, batch.column(view.entity)).to_pylist(), _times(batch)
    lines = [
        zip(keys, repeat(feature.name), _cells(batch, feature), _texts(batch, feature), times, strict=False)
        for feature in features
    ]
    rows = chain.from_iterable(zip(*lines, strict=True))
    return con.executemany(sql.format(table=table_name(view)), rows).rowcount


def _cells(batch: pa.RecordBatch, feature: Feature) -> list[bytes]:
    cells: list[bytes] = encode_column(batch.column(feature.name), feature.dtype).to_pylist()
    return cells


def _texts(batch: pa.RecordBatch, feature: Feature) -> Any:
    """Feast keeps a text beside its message, to search by."""
    return batch.column(feature.name).to_pylist() if feature.dtype is Dtype.STRING else repeat(None)


def _times(batch: pa.RecordBatch) -> list[int]:
    return [stored_time(unix_s) for unix_s in unix_seconds(batch).tolist()]


def stored_time(unix_s: int) -> int:
    """What Feast keeps of an event time."""
    return int(datetime.fromtimestamp(unix_s, UTC).replace(tzinfo=None).timestamp())


def event_unix_s(stored: int) -> int:
    """The event time that Feast kept."""
    return int(datetime.fromtimestamp(stored).replace(tzinfo=UTC).timestamp())
