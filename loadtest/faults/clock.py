"""A clock that jumps: libfaketime under a whole process, so that Python and gRPC's core both see it. Linux only."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from loadtest.errors import LoadTestError

JUMP_S = 3600


def environ(file: Path) -> dict[str, str]:
    """For a process whose clock `jump` sets; the monotonic clock stays, as when an operator sets the time."""
    found = find_spec("libfaketime")
    library = Path(found.origin).parent / "vendor/libfaketime/src/libfaketime.so.1" if found and found.origin else None
    if library is None or not library.exists():
        raise LoadTestError("the clock cannot be set without libfaketime; run `make test` once, or pip install it")
    jump(file, 0)
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def jump(file: Path, seconds: int) -> None:
    """So far ahead of the true time from now on; 0 is the true time."""
    written = file.with_suffix(".new")
    written.write_text(f"{seconds:+d}\n")
    written.replace(file)
