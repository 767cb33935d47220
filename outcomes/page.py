"""A report on disk: numbers as JSON for programs, one self-contained HTML page for people."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jinja2
import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

STATE_COLOURS: Final = {
    "new": "#fcd34d",
    "active": "#0f766e",
    "casual": "#5eead4",
    "at_risk": "#f59e0b",
    "dormant": "#94a3b8",
    "resurrected": "#6366f1",
}


def write(report: Mapping[str, Any], figures: Mapping[str, Figure], *, name: str, directory: Path) -> tuple[Path, Path]:
    """`<name>.json` and `<name>.html`, each replaced at once."""
    directory.mkdir(parents=True, exist_ok=True)
    data, page = directory / f"{name}.json", directory / f"{name}.html"
    _replace(data, json.dumps(report, indent=2, allow_nan=False) + "\n")
    _replace(page, render(report, figures, name=name))
    return data, page


def render(report: Mapping[str, Any], figures: Mapping[str, Figure], *, name: str) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "percent": _percent}
    inlined = {key: _inline(figure) for key, figure in figures.items()}
    return environment.get_template(f"{name}.html.j2").render(report=report, figures=inlined)


def axes(width: float = 7.2, height: float = 3.4) -> tuple[Figure, Any]:
    figure, plot = plt.subplots(figsize=(width, height), layout="constrained")
    plot.spines[["top", "right"]].set_visible(False)
    plot.grid(axis="y", color="#e2e8f0", linewidth=0.8)
    plot.set_axisbelow(True)
    return figure, plot


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _inline(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_text(text)
    draft.replace(path)
