"""Files and folders that are there for a while: what is being written, and what a process works with.

They lie in the state directory and hold users' data. A process that is killed leaves them behind: the next one to make
a folder in the same place removes what no living process holds, and an erasure all that there is.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

_SCRATCH: Final = ".scratch-"
_HELD: Final = ".held"  # in each of them; locked while its process lives


@contextmanager
def draft(file: Path) -> Iterator[Path]:
    """A name beside the file: what is written there takes the file's place at the end, and is removed on an error."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        yield unfinished
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def scratch_folder(directory: Path) -> Iterator[Path]:
    """A folder below `directory`, which is made, for this block."""
    directory.mkdir(parents=True, exist_ok=True)
    remove_left_folders(directory)
    folder, held = _make(directory)
    with held:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_left_folders(directory: Path) -> int:
    """The scratch folders in `directory` of processes that are gone; how many there were."""
    removed = 0
    for file in directory.glob(f"{_SCRATCH}*/{_HELD}"):
        held = _hold(file)
        if held is not None:
            with held:
                shutil.rmtree(file.parent, ignore_errors=True)
            removed += 1
    return removed


def remove_left(root: Path) -> int:
    """Likewise anywhere below `root`, and Parquet files that nobody finished; how many."""
    removed = sum(map(remove_left_folders, {folder.parent for folder in root.rglob(f"{_SCRATCH}*")}))
    for file in root.rglob(".*.parquet.*"):
        file.unlink(missing_ok=True)
        removed += 1
    return removed


def _make(directory: Path) -> tuple[Path, IO[bytes]]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=directory))
        (folder / _HELD).touch()
        held = _hold(folder / _HELD)
        if held is not None:  # else another process took it for a left one before it was held
            return folder, held


def _hold(file: Path) -> IO[bytes] | None:
    """Holds it until it is closed; None where another process does, or it is gone."""
    try:
        held = file.open("r+b")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        return None
    if file.exists():
        return held
    held.close()
    return None
