"""How many workers a gateway has, from its metrics: a call is answered by one worker, which knows of no other."""

from __future__ import annotations

import re
from http.client import HTTPConnection, HTTPException
from typing import Final

TIMEOUT_S: Final = 2.0
_COUNT: Final = re.compile(r"^longtail_workers_(ready|wanted) (\d+)(?:\.0)?$", re.MULTILINE)


def told_workers(metrics_address: str) -> str:
    """For people. A gateway whose metrics cannot be had is no less well."""
    if not metrics_address:
        return "unknown; give --metrics, the gateway's metrics address"
    try:
        counts = dict(_COUNT.findall(_page(metrics_address)))
    except (OSError, ValueError, HTTPException) as error:
        return f"unknown; no metrics at {metrics_address} ({error})"
    if len(counts) < 2:
        return f"unknown; the metrics at {metrics_address} do not tell"
    return f"{counts['ready']} of {counts['wanted']} ready, by the metrics at {metrics_address}"


def _page(address: str) -> str:
    connection = HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()
