"""Whether this process is a worker, whose metrics are summed with others. Imports no Prometheus, which looks too."""

from __future__ import annotations

import os
from typing import Final

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's; Feast sets it too, to a folder of its own
PREFIX: Final = "longtail-metrics-"


def metrics_are_shared() -> bool:
    """True in a worker."""
    return PREFIX in os.environ.get(VARIABLE, "")
