"""The report: `report.json` for machines and one self-contained `report.html` for people."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import jinja2

from loadtest.plan import Plan
from loadtest.slo import Verdict
from loadtest.summary import Row, Second, Summary

FORMAT: Final = 1
CHART_WIDTH: Final = 900.0
CHART_HEIGHT: Final = 160.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """One load test, ended."""

    plan: Plan
    started_at: datetime  # aware UTC
    summary: Summary
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)


def write(report: Report, directory: Path) -> tuple[Path, Path]:
    """Writes both files; returns their paths, HTML first."""
    html, data = directory / "report.html", directory / "report.json"
    data.write_text(json.dumps(as_json(report), indent=2, allow_nan=False) + "\n", "utf-8")
    html.write_text(as_html(report), "utf-8")
    return html, data


def as_json(report: Report) -> dict[str, Any]:
    summary = report.summary
    rows = {name: [_row(row) for row in getattr(summary, name)] for name in ("rpcs", "states", "user_kinds")}
    document: dict[str, Any] = _finite(
        {
            "format": FORMAT,
            "passed": report.passed,
            "started_at": report.started_at.isoformat(timespec="seconds"),
            "plan": report.plan.model_dump(mode="json"),
            "slo": [dataclasses.asdict(verdict) for verdict in report.verdicts],
            "summary": dataclasses.asdict(summary) | rows | {"total": _row(summary.total)},
        }
    )
    return document


def _row(row: Row) -> dict[str, Any]:
    return dataclasses.asdict(row) | {"error_rate": row.error_rate, "degraded_share": row.degraded_share}


def as_html(report: Report) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("loadtest", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"ms": _ms, "share": _share}
    return environment.get_template("report.html.j2").render(
        report=report,
        tables=_tables(report.summary),
        chart=_chart(report.summary.seconds),
    )


def _tables(summary: Summary) -> list[tuple[str, str, tuple[Row, ...]]]:
    return [
        ("By RPC", "", (*summary.rpcs, summary.total)),
        ("By RPC and user state", "The state is the one in the answer.", summary.states),
        ("By kind of user", "As drawn: the Zipf head, the long tail, and ids never seen before.", summary.user_kinds),
    ]


def _chart(seconds: tuple[Second, ...]) -> dict[str, Any]:
    """Points of two lines, latency by second, and the top of the scale; a second without an answer is a gap."""
    finite = [second.p99_ms for second in seconds if math.isfinite(second.p99_ms)]
    top_ms = max(finite, default=1.0) or 1.0
    last_s = max((second.at_s for second in seconds), default=0) or 1

    def points(values: list[tuple[int, float]]) -> str:
        return " ".join(
            f"{CHART_WIDTH * at_s / last_s:.1f},{CHART_HEIGHT * (1 - min(value, top_ms) / top_ms):.1f}"
            for at_s, value in values
            if math.isfinite(value)
        )

    return {
        "width": CHART_WIDTH,
        "height": CHART_HEIGHT,
        "top_ms": top_ms,
        "last_s": last_s,
        "p50": points([(second.at_s, second.p50_ms) for second in seconds]),
        "p99": points([(second.at_s, second.p99_ms) for second in seconds]),
        "errors": [f"{CHART_WIDTH * second.at_s / last_s:.1f}" for second in seconds if second.errors],
    }


def _ms(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "none" if math.isinf(value) else f"{value:.1f}"


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"


def _finite(value: Any) -> Any:
    """The same, with None for what JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
