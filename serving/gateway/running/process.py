"""What is set for the whole process that serves: threads, memory, what is not imported."""

from __future__ import annotations

import gc
import sys
from typing import Final

THREAD_SWITCH_S: Final = 0.0005  # a thread that has written to disk or read from it must not wait 5 ms for the loop
YOUNG_OBJECTS: Final = 20_000  # made between two looks of the garbage collector; a request makes about a thousand


def begin() -> None:
    """Before anything is opened."""
    sys.setswitchinterval(THREAD_SWITCH_S)
    # Feast imports dask, which takes in sparse, and with it numba, where they happen to be installed: 60 MB unused.
    sys.modules.setdefault("sparse", None)  # type: ignore[arg-type]  # an import of it then fails, as it may


def settle() -> None:
    """What start-up made stays: the collector need not walk through a million objects of it while calls wait."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
