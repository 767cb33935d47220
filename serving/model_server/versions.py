"""Which versions lie under a model's base path, and which of them shall be served."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_NUMBER: Final = re.compile(r"\d{1,19}")
_MAX_INT64: Final = (1 << 63) - 1

Policy = Callable[[Mapping[int, Path]], frozenset[int]]
"""Chooses the versions to serve among those found."""


def find_versions(base_path: Path) -> dict[int, Path]:
    """Entries of the base path whose name is a number, by that number; `00000123` is version 123. Raises OSError."""
    found: dict[int, Path] = {}
    for entry in sorted(base_path.iterdir()):
        if not _NUMBER.fullmatch(entry.name) or int(entry.name) > _MAX_INT64:
            continue
        version = int(entry.name)
        if version in found:
            log.warning(
                "Duplicate version directories detected. Version %d will be loaded from %s, %s will be ignored.",
                version,
                entry.name,
                found[version].name,
            )
        found[version] = entry
    return found


def latest(count: int = 1) -> Policy:
    """The `count` greatest versions, at least one; the default policy is the greatest alone."""

    def choose(found: Mapping[int, Path]) -> frozenset[int]:
        return frozenset(sorted(found)[-max(count, 1) :])

    return choose


def every(found: Mapping[int, Path]) -> frozenset[int]:
    """All versions there are."""
    return frozenset(found)


def specific(numbers: Iterable[int]) -> Policy:
    """These versions, as soon as they are there."""
    wanted = frozenset(numbers)

    def choose(found: Mapping[int, Path]) -> frozenset[int]:
        for number in sorted(wanted - found.keys()):
            log.warning("Version %d, which was requested as a 'specific' version, was not found", number)
        return wanted & found.keys()

    return choose
