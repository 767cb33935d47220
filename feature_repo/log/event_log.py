"""The event log: imports as Parquet, feedback as JSON lines in numbered segments, one row per event_id.

`append` is safe beside other processes (a file lock) and after a crash (a torn last line was never acknowledged
and is cut off before the next write). Known ids are kept in memory as 64-bit digests: 8 bytes for an imported
event, about 60 for an appended one.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from feature_repo.drafts import scratch_folder
from feature_repo.errors import EventLogError
from feature_repo.events import CHOICES, Event
from feature_repo.log.event_lines import blank, decode_event, encode_event, event_id_of, fsync_directory
from feature_repo.log.known_ids import ImportedIds, contains, digest_of
from feature_repo.log.tombstones import Tombstones

if TYPE_CHECKING:
    import ibis
    from ibis.backends.duckdb import Backend

_log = logging.getLogger(__name__)

SEGMENT_BYTES = 64 * 1024 * 1024

# Columns of the log as DuckDB types; the fields of Event.
COLUMNS = {
    "event_id": "VARCHAR",
    "user_id": "VARCHAR",
    "item_id": "VARCHAR",
    "event_type": "VARCHAR",
    "event_time": "TIMESTAMPTZ",
    "value": "DOUBLE",
    "surface": "VARCHAR",
    "decision_id": "VARCHAR",
}


class Position(NamedTuple):
    """A place in the segments, always at the start of a line."""

    segment: int
    offset: int


START = Position(1, 0)


class EventLog:
    """One log, `directory` being `StateDir.events`. Any thread may call it."""

    def __init__(self, directory: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._directory = directory
        self._segments = directory / "segments"
        self._segment_bytes = segment_bytes
        self._thread_lock = threading.Lock()
        self._appended: set[int] = set()  # digests of ids in the segments before `_end`
        self._end = START
        self._imports = ImportedIds(directory)
        self._tombstones = Tombstones(directory)

    def append(self, events: Sequence[Event]) -> list[bool]:
        """Writes the events whose ids are new, and returns once they are on disk: True for each one written.

        An event of an erased user from before the erasure is not written either.

        Raises EventLogError when the log cannot be written; then none of `events` was acknowledged.
        """
        with self._thread_lock:
            try:
                with self._file_lock():
                    return self._append(events)
            except OSError as error:
                raise EventLogError(f"cannot write the event log in {self._segments}: {error}") from error

    def read_after(self, position: Position = START, *, limit: int = 1000) -> tuple[list[Event], Position]:
        """Up to `limit` appended events after `position`, and the position after them. Whole lines only."""
        events: list[Event] = []
        for line, after in self._lines(position):
            event = decode_event(line)
            if event is not None:
                events.append(event)
            elif line.strip():  # an erased event is blank
                place = f"{self._file(after.segment)} ends at byte {after.offset}"
                _log.warning("a damaged line of %s; it is left out, restore the segment to have it", place)
            position = after
            if len(events) >= limit:
                break
        return events, position

    @contextmanager
    def frozen(self) -> Iterator[tuple[list[Path], Position]]:
        """The segments as they are now, and their end: what is appended meanwhile is not in them."""
        files = self._segment_files()
        if not files:
            yield [], START
            return
        number, last = files[-1]
        with scratch_folder(self._directory) as folder:
            data = last.read_bytes()
            whole = data.rfind(b"\n") + 1
            copy = folder / last.name
            copy.write_bytes(data[:whole])
            yield [*(file for _, file in files[:-1]), copy], Position(number, whole)

    @contextmanager
    def frozen_around(self, position: Position) -> Iterator[tuple[list[Path], list[Path], Position]]:
        """Likewise in two parts: what was appended before `position`, and after; and the end."""
        with (
            self.frozen() as (files, end),
            scratch_folder(self._directory) as folder,
        ):
            before = [file for file in files if int(file.stem) < position.segment]
            after = [file for file in files if int(file.stem) > position.segment]
            for file in files[len(before) : len(files) - len(after)]:
                data = file.read_bytes()
                for part, parts, lines in (
                    ("before", before, data[: position.offset]),
                    ("after", after, data[position.offset :]),
                ):
                    copy = folder / f"{part}-{file.name}"
                    copy.write_bytes(lines)
                    parts.append(copy)
            yield before, after, end

    def table(
        self, con: Backend, *, segments: Sequence[Path] | None = None, imports: Sequence[Path] | None = None
    ) -> ibis.Table:
        """Every event, one row per event_id (the earliest), with the columns of Event; `con` is DuckDB.

        `segments` are those of `frozen`; all there are by default, and so of `imports`.
        """
        imports = self.import_files() if imports is None else imports
        every = self.rows(con, segments=segments, imports=imports)
        alone = len(imports) == 1 and not self._with_events(segments)
        return every if alone else one_per_id(every)  # an import is free of duplicates already

    def rows(
        self, con: Backend, *, segments: Sequence[Path] | None = None, imports: Sequence[Path] | None = None
    ) -> ibis.Table:
        """The same with what stands twice."""
        import ibis

        tables = []
        if imports := self.import_files() if imports is None else imports:
            tables.append(con.read_parquet([str(file) for file in imports])[list(COLUMNS)])
        if texts := self._with_events(segments):
            tables.append(read_segments(con, texts))
        schema = {name: _IBIS_TYPES[kind] for name, kind in COLUMNS.items()}
        if not tables:
            return con.create_table(ibis.util.gen_name("no_events"), schema=ibis.schema(schema), temp=True)
        return ibis.union(*tables).cast(schema)

    def _with_events(self, segments: Sequence[Path] | None) -> list[Path]:
        files = self.segment_files() if segments is None else segments
        return [file for file in files if file.stat().st_size]

    def erase(self, user_id: str) -> dict[str, int]:
        """Blanks the user's lines in the segments, each of which is replaced by a rename; events by segment.

        The other lines stay where they are, so that a reader's position still holds.
        """
        with self._thread_lock, self._file_lock():
            for left in self._segments.glob(".*.unfinished"):  # by a process that was killed
                left.unlink()
            mention = json.dumps(user_id, ensure_ascii=False).encode()
            return {
                file.name: blank(file, lambda event: event.user_id == user_id, mention) for file in self.segment_files()
            }

    def drop_before(self, moment: datetime) -> dict[str, int]:
        """Blanks what happened before `moment`, likewise; but not the users' choices of channels."""

        def is_dropped(event: Event) -> bool:
            return event.event_time < moment and event.event_type not in CHOICES

        with self._thread_lock, self._file_lock():
            return {file.name: blank(file, is_dropped) for file in self.segment_files()}

    def import_files(self) -> list[Path]:
        """The Parquet file of each imported source."""
        return sorted(self._directory.glob("*.parquet"))

    def segment_files(self) -> list[Path]:
        """The segments, oldest first."""
        return [file for _, file in self._segment_files()]

    def _append(self, events: Sequence[Event]) -> list[bool]:
        self._catch_up()
        imported = self._imports.digests()
        taken: list[bool] = []
        lines: list[bytes] = []
        fresh: set[int] = set()
        for event in events:
            digest = digest_of(event.event_id)
            is_new = not (digest in self._appended or digest in fresh or contains(imported, digest))
            is_new = is_new and not self._tombstones.cover(event.user_id, event.event_time)
            taken.append(is_new)
            if is_new:
                fresh.add(digest)
                lines.append(encode_event(event))
        if lines:
            self._write(b"".join(lines))
        self._appended |= fresh
        return taken

    @contextmanager
    def _file_lock(self) -> Iterator[None]:
        self._segments.mkdir(parents=True, exist_ok=True)
        with (self._segments / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _catch_up(self) -> None:
        """Learns the ids that other processes wrote since, and cuts off a torn last line."""
        for line, after in self._lines(self._end):
            event_id = event_id_of(line)
            if event_id is not None:
                self._appended.add(digest_of(event_id))
            self._end = after
        file = self._file(self._end.segment)
        if file.exists() and file.stat().st_size > self._end.offset:
            os.truncate(file, self._end.offset)

    def _write(self, data: bytes) -> None:
        segment, offset = self._end
        if offset >= self._segment_bytes:
            segment, offset = segment + 1, 0
        with self._file(segment).open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if offset == 0:
            fsync_directory(self._segments)
        self._end = Position(segment, offset + len(data))

    def _lines(self, position: Position) -> Iterator[tuple[bytes, Position]]:
        """Whole lines after `position` with the position after each, across segments."""
        for segment, file in self._segment_files():
            if segment < position.segment:
                continue
            offset = position.offset if segment == position.segment else 0
            with file.open("rb") as lines:
                lines.seek(offset)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    offset += len(line)
                    yield line, Position(segment, offset)

    def _file(self, segment: int) -> Path:
        return self._segments / f"{segment:012d}.jsonl"

    def _segment_files(self) -> list[tuple[int, Path]]:
        return sorted((int(file.stem), file) for file in self._segments.glob("*.jsonl") if file.stem.isdecimal())


def read_segments(con: Backend, files: Sequence[Path]) -> ibis.Table:
    """The events of some segments, which are not empty."""
    # ignore_errors: the last line may be torn; such a line has no event_id
    texts = [str(file) for file in files]
    read = con.read_json(texts, columns=dict(COLUMNS), format="newline_delimited", ignore_errors=True)
    return read.filter(read.event_id.notnull())[list(COLUMNS)]


def one_per_id(events: ibis.Table) -> ibis.Table:
    """The earliest event of each event_id."""
    import ibis

    first = ibis.row_number().over(
        group_by="event_id", order_by=["event_time", "user_id", "item_id", "event_type", "value"]
    )
    return events.mutate(_occurrence=first).filter(ibis._._occurrence == 0).drop("_occurrence")


_IBIS_TYPES = {"VARCHAR": "string", "DOUBLE": "float64", "TIMESTAMPTZ": "timestamp('UTC', 6)"}
