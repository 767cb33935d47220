"""Files that an operator names in a setting."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from feature_repo.errors import LongtailError

Stamp = tuple[tuple[int, int, int] | None, ...]


def read_text(path: Path, *, setting: str) -> str:
    """Raises LongtailError that names the setting, and never what the file says."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise LongtailError(f"{path} cannot be read: {error.strerror}; set {setting} to a readable file") from error
    except UnicodeDecodeError as error:
        raise LongtailError(f"{path} is no text; set {setting} to a text file") from error


def stamps(paths: Iterable[Path]) -> Stamp:
    """Changes when any of the files does, also by a rename or a link that is moved."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
