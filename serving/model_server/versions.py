"""Which versions lie under a model's base path, and which of them shall be served."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
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


def latest(found: Mapping[int, Path]) -> frozenset[int]:
    """The default policy: the greatest version alone."""
    return frozenset([max(found)]) if found else frozenset()
