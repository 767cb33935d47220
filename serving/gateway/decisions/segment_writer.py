"""Appends lines to the open segment of the decision log, which becomes another when it is full, failed or replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from feature_repo.decisions.records import OPEN_SUFFIX
from feature_repo.decisions.segments import appending, hold, locked


class SegmentWriter:
    """For one thread. Raises OSError when the disk does."""

    def __init__(self, directory: Path, *, segment_bytes: int, on_closed: Callable[[], None]) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._on_closed = on_closed
        self._file: BinaryIO | None = None

    def write(self, data: bytes, *, sync: bool) -> None:
        """When it returns, the lines survive a crash of this process; after a sync, of the machine too."""
        with locked(appending(self._directory), alone=False):
            file = self._segment()
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if file.tell() >= self._segment_bytes:
            self.sync()
            file.close()
            self._file = None
            self._on_closed()

    def sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """The next write starts a new segment: after a failure this one may end in half a line."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file = None

    def _segment(self) -> BinaryIO:
        if self._file is not None and not _is_in_place(self._file):
            self._file.close()
            self._file = None
        while self._file is None:
            name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
            file = (self._directory / f"{name}-{os.getpid()}{OPEN_SUFFIX}").open("ab")
            if hold(file) and _is_in_place(file):
                self._file = file
            else:
                file.close()
        return self._file


def _is_in_place(file: BinaryIO) -> bool:
    try:
        return Path(file.name).stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
