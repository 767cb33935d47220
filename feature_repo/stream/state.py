"""The feedback worker's own memory: what it must know of users and items, and how far it has read. One SQLite file.

Events, the place in the log and the note of which rows are to be written are one transaction. So an event counts once
whatever breaks, and a row that could not be written is written later. The file is made from the log (`stream.seed`)
and may be removed at any time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from feature_repo.errors import LongtailError
from feature_repo.events import EPOCH, EXPOSURE, Event
from feature_repo.layout import StateDir
from feature_repo.log.event_log import Position
from feature_repo.settings import FeatureSettings
from feature_repo.stream.user_state import UserState

if TYPE_CHECKING:
    from feature_repo.stream.seed import Seed

VERSION: Final = 1  # of what is in the tables; another one is made anew

_TABLES: Final = """
    CREATE TABLE IF NOT EXISTS users (user_id TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS items (
        item_id TEXT PRIMARY KEY, exposures INTEGER, engagements INTEGER, first_seen_unix_s INTEGER) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS pending (entity TEXT, id TEXT, PRIMARY KEY (entity, id)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY CHECK (one = 1), made_from TEXT, segment INTEGER,
        offset INTEGER);
"""
_PUT_USER: Final = "INSERT INTO users VALUES (?, ?) ON CONFLICT DO UPDATE SET state = excluded.state"
_PUT_ITEM: Final = "INSERT INTO items VALUES (?, ?, ?, ?)"
_ADD_ITEM: Final = (
    _PUT_ITEM
    + """ ON CONFLICT DO UPDATE SET exposures = exposures + excluded.exposures,
    engagements = engagements + excluded.engagements,
    first_seen_unix_s = min(first_seen_unix_s, excluded.first_seen_unix_s)"""
)
_PUT_PENDING: Final = "INSERT OR IGNORE INTO pending VALUES (?, ?)"
_READ_KEYS: Final = 500


class StreamStateError(LongtailError):
    """The worker's memory cannot be read or written."""


@dataclass(frozen=True, kw_only=True)
class ItemState:
    """What is streamed of an item."""

    item_id: str
    exposures: int
    engagements: int
    first_seen_unix_s: int


class StreamState:
    """Used by one thread at a time; its making may be another process's."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._opened: sqlite3.Connection | None = None

    def position(self, made_from: str) -> Position | None:
        """How far the log is in it; None when it has to be made: it is new, or of other imports."""
        row = self._connection().execute("SELECT made_from, segment, offset FROM place").fetchone()
        return Position(row[1], row[2]) if row and row[0] == f"{VERSION} {made_from}" else None

    def replace(self, made_from: str, seed: Seed) -> None:
        """Forgets everything for what the log says."""
        with self._transaction() as con:
            for table in ("users", "items", "place"):
                con.execute(f"DELETE FROM {table}")  # noqa: S608  one of ours
            con.executemany(_PUT_USER, seed.users)
            con.executemany(_PUT_ITEM, seed.items)
            con.executemany(_PUT_PENDING, seed.pending)
            con.execute("INSERT INTO place VALUES (1, ?, ?, ?)", [f"{VERSION} {made_from}", *seed.position])

    def apply(self, events: Sequence[Event], position: Position, settings: FeatureSettings) -> None:
        """The events up to `position`, and that the rows of their users and items are to be written."""
        with self._transaction() as con:
            users = self.users({event.user_id for event in events})
            for event in events:
                users.setdefault(event.user_id, UserState()).add(event, settings)
            con.executemany(_PUT_USER, [(user_id, state.to_json()) for user_id, state in users.items()])
            changes = [_item_change(event, settings) for event in events if event.item_id]
            con.executemany(_ADD_ITEM, changes)
            pending = [("user_id", user_id) for user_id in users] + [("item_id", change[0]) for change in changes]
            con.executemany(_PUT_PENDING, pending)
            con.execute("UPDATE place SET segment = ?, offset = ?", [*position])

    def pending(self, entity: str, limit: int) -> list[str]:
        """Users or items whose rows are to be written."""
        sql = "SELECT id FROM pending WHERE entity = ? LIMIT ?"
        return [row[0] for row in self._connection().execute(sql, [entity, limit])]

    def written(self, entity: str, ids: Sequence[str]) -> None:
        """Their rows are written."""
        with self._transaction() as con:
            con.executemany("DELETE FROM pending WHERE entity = ? AND id = ?", [(entity, each) for each in ids])

    def users(self, user_ids: Iterable[str]) -> dict[str, UserState]:
        """Those that are known."""
        return {row[0]: UserState.from_json(row[1]) for row in self._select("users", "user_id", list(user_ids))}

    def items(self, item_ids: Sequence[str]) -> list[ItemState]:
        """Those that are known."""
        return [
            ItemState(item_id=row[0], exposures=row[1], engagements=row[2], first_seen_unix_s=row[3])
            for row in self._select("items", "item_id", item_ids)
        ]

    def erase(self, user_id: str) -> Mapping[str, int]:
        """Forgets the user. Items keep their counts, which name nobody."""
        with self._transaction() as con:
            users = con.execute("DELETE FROM users WHERE user_id = ?", [user_id]).rowcount
            con.execute("DELETE FROM pending WHERE entity = 'user_id' AND id = ?", [user_id])
        self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return {"users": users}

    def clear(self) -> None:
        """Forgets everything: the worker reads the log anew with its next step."""
        with self._transaction() as con:
            for table in ("users", "items", "pending", "place"):
                con.execute(f"DELETE FROM {table}")  # noqa: S608  one of ours
        self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    def _select(self, table: str, key: str, ids: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(ids), _READ_KEYS):
            some = ids[start : start + _READ_KEYS]
            marks = ", ".join("?" * len(some))
            yield from self._connection().execute(f"SELECT * FROM {table} WHERE {key} IN ({marks})", some)  # noqa: S608

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        con = self._connection()
        try:
            con.execute("BEGIN IMMEDIATE")
            yield con
            con.execute("COMMIT")
        except sqlite3.Error as error:
            if con.in_transaction:
                con.rollback()
            raise StreamStateError(f"cannot write {self._file}: {error}; is there space on the disk?") from error
        except BaseException:
            con.rollback()
            raise

    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            try:
                self._opened = self._open()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise StreamStateError(f"cannot open {self._file}: {error}") from error
                for file in self._file.parent.glob(self._file.name + "*"):  # damaged: it is made again from the log
                    file.unlink()
                self._opened = self._open()
        return self._opened

    def _open(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        con = sqlite3.connect(self._file, timeout=30, isolation_level=None, check_same_thread=False)
        con.execute("PRAGMA journal_mode = WAL")
        con.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes is read from the log again
        con.execute("PRAGMA secure_delete = ON")
        con.executescript(_TABLES)
        return con


def memory_file(state: StateDir) -> Path:
    """Where it lies."""
    return state.feast / "stream-state.db"


def made_from(imports: Iterable[Path], settings: FeatureSettings) -> str:
    """Names the imports and the settings that the state depends on."""
    files = [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in imports]
    return json.dumps([files, settings.event_weights, settings.default_event_weight])


def _item_change(event: Event, settings: FeatureSettings) -> tuple[str, int, int, int]:
    is_exposure, is_engagement = event.event_type == EXPOSURE, settings.weight(event.event_type) > 0
    return event.item_id, int(is_exposure), int(is_engagement), int((event.event_time - EPOCH).total_seconds() // 1)
