"""What must hold between the contenders, and whether it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.compare.contenders import CACHE, FLOOR, NAIVE, OURS, SQLITE
from loadtest.compare.measure import Cell

Cells = Mapping[tuple[str, str], Cell]  # by contender and load


@dataclass(frozen=True, kw_only=True)
class Target:
    """`measured` must be `limit` at least, or at most where `at_most`."""

    name: str
    limit: float
    measured: float
    at_most: bool = False
    unit: str = "×"

    @property
    def is_met(self) -> bool:
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit


def targets(cells: Cells, *, ready_s: float) -> list[Target]:
    def per_s(name: str) -> float:
        return cells[name, "32 callers"].per_s

    ours = cells[OURS, "32 callers"]
    p99 = cells[OURS, "8 callers"].p99_ms / cells[CACHE, "8 callers"].p99_ms
    return [
        Target(name="req/s at 32 callers ÷ naive", limit=20, measured=per_s(OURS) / per_s(NAIVE)),
        Target(name="req/s at 32 callers ÷ naive + cache", limit=3, measured=per_s(OURS) / per_s(CACHE)),
        Target(name="req/s at 32 callers ÷ floor", limit=0.85, measured=per_s(OURS) / per_s(FLOOR)),
        Target(name="p99 at 8 callers ÷ naive + cache", limit=0.25, measured=p99, at_most=True),
        Target(name="req/s at 32 callers, SQLite ÷ Redis", limit=0.7, measured=per_s(SQLITE) / per_s(OURS)),
        Target(name="gateway CPU a request", limit=1.0, measured=ours.gateway_ms, at_most=True, unit="ms"),
        Target(name="gateway resident", limit=400, measured=ours.resident_mb, at_most=True, unit="MB"),
        Target(name="gateway ready", limit=8, measured=ready_s, at_most=True, unit="s"),
    ]
