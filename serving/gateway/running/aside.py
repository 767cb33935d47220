"""Work in a process of its own: long work that would hold up the loop for seconds, or keep memory when it is done."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process


def process_aside() -> ProcessPoolExecutor:
    """One piece of work at a time, each in a fresh process."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_work_aside, max_tasks_per_child=1)


def _work_aside() -> None:
    """It yields to the process that serves, and ends with it, killed or not."""
    os.nice(10)
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
