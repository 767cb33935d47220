"""What the tables of the last build stand on, so that the next one can tell what is new.

A build writes it after its tables. Whatever it names and is no longer as it was, be it a table, an import or the
settings, makes the next incremental build a full one: so a broken build, an erasure or a restored backup needs no
care of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from feature_repo.contract import VIEWS
from feature_repo.layout import StateDir
from feature_repo.log.catalogue import catalogue_file
from feature_repo.log.event_log import EventLog, Position
from feature_repo.settings import FeatureSettings

Print = tuple[int, ...]  # changes with the file; empty without one

_RECIPE: Final = ("event_weights", "default_event_weight", "neighbor_history", "lifecycle")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything a build depends on but the moment."""

    imports: dict[str, Print]
    segments: dict[str, Print]  # which files they are, not how long
    end: Position
    catalogue: Print
    erasures: Print
    recipe: str

    @classmethod
    def of(cls, state: StateDir, settings: FeatureSettings, end: Position) -> Inputs:
        """As they are now, the segments up to `end`."""
        log = EventLog(state.events)
        return cls(
            imports={file.name: print_of(file) for file in log.import_files()},
            segments={
                file.name: (file.stat().st_ino,) for file in log.segment_files() if int(file.stem) <= end.segment
            },
            end=end,
            catalogue=print_of(catalogue_file(state)),
            erasures=print_of(state.events / "erased.jsonl"),
            recipe=_recipe(settings),
        )

    def since(self, before: Inputs) -> str:
        """What of `before` changed, other than by more events; empty when nothing did."""
        if any(self.imports.get(name) != known for name, known in before.imports.items()):
            return "an import was replaced or removed"
        if any(self.segments.get(name) != known for name, known in before.segments.items()):
            return "recorded events were erased or pruned"
        if self.catalogue != before.catalogue:
            return "the catalogue changed"
        if self.erasures != before.erasures:
            return "a user was erased"
        if self.recipe != before.recipe:
            return "settings of features, or the version of longtail, changed"
        return ""


@dataclass(frozen=True, kw_only=True)
class Watermark:
    """One file beside the tables."""

    as_of: datetime
    inputs: Inputs
    tables: dict[str, Print]

    def write(self, state: StateDir) -> None:
        self.write_to(watermark_file(state))

    def write_to(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.name}.unfinished")
        unfinished.write_text(json.dumps(asdict(self) | {"as_of": self.as_of.isoformat()}) + "\n")
        unfinished.replace(file)

    @classmethod
    def read(cls, state: StateDir) -> Watermark | None:
        """None when there is none, or none that this version understands."""
        return cls.read_from(watermark_file(state))

    @classmethod
    def read_from(cls, file: Path) -> Watermark | None:
        try:
            read = json.loads(file.read_text())
            inputs = read["inputs"]
            return cls(
                as_of=datetime.fromisoformat(read["as_of"]),
                inputs=Inputs(
                    imports=_prints(inputs["imports"]),
                    segments=_prints(inputs["segments"]),
                    end=Position(*inputs["end"]),
                    catalogue=tuple(inputs["catalogue"]),
                    erasures=tuple(inputs["erasures"]),
                    recipe=inputs["recipe"],
                ),
                tables=_prints(read["tables"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def obstacle(self, state: StateDir, now: Inputs, as_of: datetime) -> str:
        """Why the tables cannot be brought up to `as_of`; empty when they can."""
        if as_of < self.as_of:
            return f"the last build is of a later moment, {self.as_of.isoformat()}"
        if any(print_of(state.features / name) != known for name, known in self.tables.items()):
            return "a table is not as the last build left it"
        return now.since(self.inputs)


def watermark_file(state: StateDir) -> Path:
    return state.features / ".build" / "watermark.json"


def prints_of(files: Iterable[Path], folder: Path) -> dict[str, Print]:
    return {str(file.relative_to(folder)): print_of(file) for file in files}


def print_of(file: Path) -> Print:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return ()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _prints(read: dict[str, list[int]]) -> dict[str, Print]:
    return {name: tuple(seen) for name, seen in read.items()}


def _recipe(settings: FeatureSettings) -> str:
    try:
        of_code = version("longtail")
    except PackageNotFoundError:  # run from a checkout that is not installed
        of_code = "checkout"
    parts = [of_code, repr(VIEWS), settings.model_dump_json(include=set(_RECIPE))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
