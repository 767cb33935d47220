"""Lines of a segment: an event as JSON, and the blank in place of one that must go."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from feature_repo.drafts import draft
from feature_repo.events import Event


def encode_event(event: Event) -> bytes:
    """With its end of line."""
    row = asdict(event) | {"event_time": event.event_time.isoformat()}
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def decode_event(line: bytes) -> Event | None:
    """None for a line that is no event: only a damaged disk makes one."""
    try:
        row: dict[str, Any] = json.loads(line)
        return Event(**row | {"event_time": datetime.fromisoformat(row["event_time"])})
    except (ValueError, KeyError, TypeError):
        return None


def event_id_of(line: bytes) -> str | None:
    """None likewise."""
    event = decode_event(line)
    return None if event is None else event.event_id


def blank(file: Path, is_dropped: Callable[[Event], bool], mention: bytes = b"") -> int:
    """Blanks in place of such lines, which all hold `mention`, by a rename of the file; how many."""
    lines, count = file.read_bytes().splitlines(keepends=True), 0
    for place, line in enumerate(lines):
        if mention in line and (event := decode_event(line)) is not None and is_dropped(event):
            lines[place] = b" " * (len(line) - 1) + b"\n"
            count += 1
    if count:
        with draft(file) as unfinished, unfinished.open("wb") as written:
            written.write(b"".join(lines))
            written.flush()
            os.fsync(written.fileno())
        fsync_directory(file.parent)
    return count


def fsync_directory(directory: Path) -> None:
    """A new name in it is on disk when this returns."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
