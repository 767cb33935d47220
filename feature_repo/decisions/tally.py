"""How many decisions a process answered and how many of them became lines: what a crash took is the difference.

The two numbers lie in a file that is mapped into memory, so that they outlive the process that counts.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from feature_repo.decisions.segments import hold

SUFFIX: Final = ".tally"
_NUMBER: Final = struct.Struct("<Q")


class Tally:
    """Accepted by one thread, settled by another: each writes a number of its own."""

    def __init__(self) -> None:
        self.accepted = 0
        self.settled = 0
        self._numbers: bytearray | mmap.mmap = bytearray(2 * _NUMBER.size)
        self._file: IO[bytes] | None = None

    def accept(self) -> None:
        self.accepted += 1
        _NUMBER.pack_into(self._numbers, 0, self.accepted)

    def settle(self, count: int) -> None:
        """Written, or lost and counted so."""
        self.settled += count
        _NUMBER.pack_into(self._numbers, _NUMBER.size, self.settled)

    def keep_in(self, directory: Path) -> None:
        """From now on in a file. Raises OSError."""
        if self._file is not None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / f"{os.getpid()}-{id(self)}{SUFFIX}").open("w+b")
        hold(file)
        file.truncate(2 * _NUMBER.size)
        numbers = mmap.mmap(file.fileno(), 2 * _NUMBER.size)
        self._file, self._numbers = file, numbers
        _NUMBER.pack_into(numbers, 0, self.accepted)
        _NUMBER.pack_into(numbers, _NUMBER.size, self.settled)

    def close(self) -> None:
        """Nothing is under way any more."""
        if self._file is not None:
            with suppress(OSError):
                Path(self._file.name).unlink()
            self._file.close()
        self._file, self._numbers = None, bytearray(2 * _NUMBER.size)


def lost_in_crashes(directory: Path) -> int:
    """Decisions, at most, that processes which ended without closing their log had answered and not written."""
    lost = 0
    for path in directory.glob(f"*{SUFFIX}"):
        with suppress(FileNotFoundError), path.open("rb") as file:
            data = file.read()
            if len(data) == 2 * _NUMBER.size and hold(file):
                (accepted,), (settled,) = _NUMBER.unpack_from(data, 0), _NUMBER.unpack_from(data, _NUMBER.size)
                lost += max(accepted - settled, 0)
                path.unlink()
    return lost
