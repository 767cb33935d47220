"""Whether this process is a worker, whose metrics are summed with others. Imports no Prometheus, which looks too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's; Feast sets it too, to a folder of its own
PREFIX: Final = "longtail-metrics-"


def workers_directory() -> Path | None:
    """What the workers of one gateway share for as long as it lives; None in a process that is no worker."""
    directory = os.environ.get(VARIABLE, "")
    return Path(directory) if PREFIX in directory else None


def metrics_are_shared() -> bool:
    """True in a worker."""
    return workers_directory() is not None
