"""Verdicts: what was measured, beside what must hold."""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.profiles import Slo
from loadtest.summary import Row


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One objective; `passed` is False too when nothing was measured."""

    name: str
    limit: float
    measured: float
    passed: bool


def judge(slo: Slo, total: Row) -> tuple[Verdict, ...]:
    """A run without an answer fails every objective: it proves nothing."""
    measured = {"p99_ms": total.p99_ms, "error_rate": total.error_rate, "degraded_share": total.degraded_share}
    return tuple(
        Verdict(name=name, limit=limit, measured=measured[name], passed=total.answered > 0 and measured[name] <= limit)
        for name, limit in slo.model_dump().items()
    )
