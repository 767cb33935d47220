"""Segments of the decision log over their life: closed into Parquet, and cleared of a user who must be forgotten.

Two locks. A writer holds `.lock` shared while it appends a batch; whoever replaces a segment's file holds it alone for
that moment, and the writer then finds its file gone and opens another. `.maintenance` is held by one closing or erasing
process at a time. A writer also holds its open segment, so that one which nobody holds was left by a crash.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.decisions.lines import parse
from feature_repo.decisions.records import CLOSED_SUFFIX, OPEN_SUFFIX, SCHEMA, decode, load, segments

ROWS_PER_GROUP: Final = 1000


@contextmanager
def locked(path: Path, *, alone: bool) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def appending(directory: Path) -> Path:
    """The lock of those who append."""
    return directory / ".lock"


def hold(file: IO[bytes]) -> bool:
    """Marks an open segment as written by this process; False when another one has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def close_segments(directory: Path) -> int:
    """Turns every segment that nobody writes any more into Parquet; returns how many. Raises OSError when it cannot."""
    with locked(directory / ".maintenance", alone=True):
        return sum(_close(path) for path in sorted(directory.glob(f"*{OPEN_SUFFIX}")))


def _close(path: Path) -> bool:
    with path.open("rb") as file:
        if not hold(file):
            return False
        lines = file.read().splitlines()
        if not lines:
            path.unlink()
            return False
        draft = path.with_name(f".{path.stem}.draft")
        with pq.ParquetWriter(draft, SCHEMA, compression="zstd") as writer:
            for start in range(0, len(lines), ROWS_PER_GROUP):
                writer.write_table(decode(lines[start : start + ROWS_PER_GROUP], where=path))
        _replace(draft, path.with_suffix(CLOSED_SUFFIX))
        path.unlink()
    return True


def erase_user(directory: Path, user_id: str) -> int:
    """Removes every decision about that user, also from segments being written; returns how many there were."""
    if not directory.is_dir():
        return 0
    with locked(directory / ".maintenance", alone=True):
        for left in directory.glob(".*.draft"):  # by a process that was killed
            left.unlink()
        return sum(_erase_from(path, user_id, directory) for path in segments(directory))


def _erase_from(path: Path, user_id: str, directory: Path) -> int:
    if path.suffix == OPEN_SUFFIX:
        with locked(appending(directory), alone=True):
            return _erase_from_lines(path, user_id)
    count: int = pc.sum(pc.equal(load(path, ["user_id"])["user_id"], user_id)).as_py() or 0
    if count:
        table = load(path)
        draft = path.with_name(f".{path.stem}.draft")
        pq.write_table(
            table.filter(pc.not_equal(table["user_id"], user_id)),
            draft,
            compression="zstd",
            row_group_size=ROWS_PER_GROUP,
        )
        _replace(draft, path)
    return count


def _erase_from_lines(path: Path, user_id: str) -> int:
    lines = list(parse(path.read_bytes().splitlines(), where=path))
    kept = [data for line, data in lines if line["user_id"] != user_id]
    if len(kept) < len(lines):
        draft = path.with_name(f".{path.stem}.draft")
        draft.write_bytes(b"".join(data + b"\n" for data in kept))
        _replace(draft, path)
    return len(lines) - len(kept)


def _replace(draft: Path, path: Path) -> None:
    """The new file is whole on disk before it has the name."""
    for name in (draft, path.parent):
        if name == path.parent:
            draft.rename(path)
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
