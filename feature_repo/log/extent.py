"""How much of an event log was read: the same can be read again while more comes in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_repo.errors import EventLogError
from feature_repo.log.event_log import EventLog, Position


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Whole imports, and the segments before a place. What is erased or replaced later is not in it any more."""

    imports: tuple[str, ...]  # names of files
    end: Position

    def as_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return {"imports": list(self.imports), "end": list(self.end)}

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> Extent:
        """What `as_json` gave."""
        return cls(imports=tuple(read["imports"]), end=Position(*read["end"]))

    def write(self, file: Path) -> None:
        """Makes the folder; the file appears whole."""
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.unfinished")
        draft.write_text(json.dumps(self.as_json()) + "\n")
        draft.replace(file)

    @classmethod
    def read(cls, file: Path) -> Extent | None:
        """None when there is none, or none that can be read."""
        try:
            return cls.from_json(json.loads(file.read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True, kw_only=True)
class FrozenLog:
    """Files of a log that nothing is appended to."""

    imports: list[Path]
    segments: list[Path]
    extent: Extent


@contextmanager
def frozen(log: EventLog, extent: Extent | None = None) -> Iterator[FrozenLog]:
    """As much of the log as `extent` says, or all there is now. Raises EventLogError when an import of it is gone."""
    imports = log.import_files()
    if extent is None:
        with log.frozen() as (segments, end):
            now = Extent(imports=tuple(file.name for file in imports), end=end)
            yield FrozenLog(imports=imports, segments=segments, extent=now)
        return
    if gone := {*extent.imports} - {file.name for file in imports}:
        raise EventLogError(f"imports that were learnt from are gone: {', '.join(sorted(gone))}; run `longtail train`")
    with log.frozen_around(extent.end) as (before, _, _):
        yield FrozenLog(
            imports=[file for file in imports if file.name in extent.imports], segments=before, extent=extent
        )
