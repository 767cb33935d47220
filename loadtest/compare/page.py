"""The comparison for people: a table on the terminal, and one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from loadtest.compare.verdict import Cells, Target

CPU_COLUMNS = ("gateway", "model", "store", "caller")
COLUMNS = ("contender", "load", "req/s", "p50 ms", "p99 ms", "failed", "degraded", *CPU_COLUMNS)

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # caption, header, lines


def rows(cells: Cells) -> list[tuple[str, ...]]:
    """The last four columns are CPU in ms per request, by process."""
    return [
        (
            name,
            load,
            f"{cell.per_s:.0f}",
            f"{cell.p50_ms:.1f}",
            f"{cell.p99_ms:.1f}",
            str(cell.failed),
            str(cell.degraded),
            *(f"{ms:.2f}" for ms in (cell.gateway_ms, cell.model_ms, cell.store_ms, cell.caller_ms)),
        )
        for (name, load), cell in cells.items()
    ]


def stage_rows(cells: Cells) -> list[tuple[str, ...]]:
    return [
        (name, load, stage, f"{us:.0f}") for (name, load), cell in cells.items() for stage, us in cell.stages_us.items()
    ]


def target_row(target: Target) -> tuple[str, ...]:
    sign = "≤" if target.at_most else "≥"
    word = "met" if target.is_met else "missed"
    return (target.name, f"{sign} {target.limit:g} {target.unit}", f"{target.measured:.2f} {target.unit}", word)


def as_text(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[place]) for line in (header, *lines)) for place in range(len(header))]
    padded = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (header, *lines)
    ]
    return "\n".join(line.rstrip() for line in padded) + "\n"


def write(path: Path, *, title: str, tables: Sequence[Table]) -> None:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("loadtest.compare", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    path.write_text(environment.get_template("page.html.j2").render(title=title, tables=tables), "utf-8")
