"""Work in a process of its own: long work that would hold up the loop for seconds, or keep memory when it is done."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Final

YIELDS: Final = 10  # to the process that serves, by so much in niceness


def process_aside(niceness: int = YIELDS) -> ProcessPoolExecutor:
    """For one piece of work, in a fresh process. What others wait for does not yield: 0."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_work_aside, initargs=(niceness,))


def _work_aside(niceness: int) -> None:
    """It ends with the process that serves, killed or not."""
    os.nice(niceness)
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
