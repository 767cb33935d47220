"""report.json and report.html: what was measured, for programs and for people. One self-contained page."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

Report = dict[str, Any]

LABELS = {
    "longtail": "longtail",
    "longtail_retrieve": "retrieval alone",
    "popularity": "popularity",
    "popularity_30d": "popular in 30 days",
    "popularity_7d": "popular in 7 days",
    "content": "content",
    "item_knn": "ItemKNN",
    "item_knn_recent": "ItemKNN, recent first",
    "ease": "EASE",
    "ease_recent": "EASE, recent first",
    "transitions": "what follows what",
    "incumbent": "in service",
}
COLOURS = {
    "longtail": "#0f766e",
    "longtail_retrieve": "#5eead4",
    "popularity": "#94a3b8",
    "popularity_30d": "#f59e0b",
    "popularity_7d": "#fcd34d",
    "content": "#a3a3a3",
    "item_knn": "#93c5fd",
    "item_knn_recent": "#3b82f6",
    "ease": "#d8b4fe",
    "ease_recent": "#9333ea",
    "transitions": "#db2777",
    "incumbent": "#1e293b",
}
COLUMNS = {
    "ndcg": "NDCG@10",
    "recall": "Recall@10",
    "hit_rate": "Hit rate@10",
    "mrr": "MRR@10",
    "auc": "AUC",
    "accuracy": "Accuracy",
    "novelty": "Novelty (bits)",
    "coverage": "Coverage",
}


def write(report: Report, directory: Path) -> tuple[Path, Path]:
    """Writes report.json and report.html."""
    directory.mkdir(parents=True, exist_ok=True)
    data, page = directory / "report.json", directory / "report.html"
    _replace(data, json.dumps(report, indent=2, allow_nan=False))
    _replace(page, render(report))
    return data, page


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_text(text)
    draft.replace(path)


def render(report: Report) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    slices = report["slices"]
    figures = {
        "learning": _inline(_learning_curve(report)) if report["curve"] else "",
        "slices": _inline(_by_slice(slices, [name for name in slices if not name.startswith("state: ")])),
        "states": _inline(_by_slice(slices, [name for name in slices if name.startswith("state: ")])),
        "calibration": _inline(_reliability(report["calibration"])),
        "reach": _inline(_reach(slices["all"]["scorers"])),
    }
    return environment.get_template("report.html.j2").render(
        report=report, figures=figures, labels=LABELS, columns=COLUMNS, verdicts=verdicts(report)
    )


def verdicts(report: Report) -> list[dict[str, Any]]:
    """For all and for tail users: the difference to each baseline, and whether it is beyond two standard errors."""
    rows = []
    for name in ("all", "tail"):
        for scorer, difference in report["slices"].get(name, {}).get("ndcg_over", {}).items():
            if scorer != "longtail_retrieve":
                mean, error = difference["mean"], difference["error"]
                sure = mean is not None and error is not None and abs(mean) > 2 * error
                word = ("better" if mean > 0 else "worse") if sure else "not told apart"
                rows.append({"slice": name, "scorer": scorer, "mean": mean, "error": error, "word": word})
    return rows


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _axes(width: float = 7.2, height: float = 3.4) -> tuple[Figure, Any]:
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _learning_curve(report: Report) -> Figure:
    figure, left = _axes()
    epochs = [row["epoch"] for row in report["curve"]]
    left.plot(epochs, [row["loss"] for row in report["curve"]], color="#94a3b8", label="training loss")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss")
    left.xaxis.get_major_locator().set_params(integer=True)
    right = left.twinx()
    right.spines["top"].set_visible(False)
    ndcg = [row["validation_ndcg"] for row in report["curve"]]
    right.plot(epochs, ndcg, color=COLOURS["longtail"], marker="o", label="validation NDCG@10")
    right.axvline(report["best_epoch"], color="#0f172a", linewidth=0.8, linestyle=":")
    right.set_ylabel("validation NDCG@10")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def _by_slice(slices: dict[str, Any], names: list[str]) -> Figure:
    figure, axes = _axes(7.2, 3.6)
    asked = [scorer for scorer in LABELS if scorer in slices["all"]["scorers"]]
    width = 0.8 / len(asked)
    for place, scorer in enumerate(asked):
        values = [slices[name]["scorers"][scorer]["ndcg"] for name in names]
        axes.bar(
            [index + (place - (len(asked) - 1) / 2) * width for index in range(len(names))],
            [value["mean"] or 0.0 for value in values],
            width,
            yerr=[value["error"] or 0.0 for value in values],
            color=COLOURS[scorer],
            ecolor="#475569",
            error_kw={"linewidth": 0.8},
            label=LABELS[scorer],
        )
    labels = [f"{name.removeprefix('state: ')}\n{slices[name]['users']} users" for name in names]
    axes.set_xticks(range(len(names)), labels, fontsize=9)
    axes.set_ylabel("NDCG@10")
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    return figure


def _reliability(calibration: dict[str, Any]) -> Figure:
    figure, axes = _axes(4.2, 3.6)
    curve = calibration["curve"]
    axes.plot([0, 1], [0, 1], color="#94a3b8", linestyle=":", linewidth=1)
    largest = max(bin_["count"] for bin_ in curve)
    axes.plot([b["probability"] for b in curve], [b["share"] for b in curve], color=COLOURS["longtail"], linewidth=1.2)
    axes.scatter(
        [b["probability"] for b in curve],
        [b["share"] for b in curve],
        s=[20 + 160 * b["count"] / largest for b in curve],
        color=COLOURS["longtail"],
        alpha=0.7,
    )
    axes.set(xlabel="predicted probability", ylabel="share that were targets", xlim=(0, 1), ylim=(0, 1))
    return figure


def _reach(scorers: dict[str, Any]) -> Figure:
    figure, axes = _axes(4.2, 3.6)
    for scorer, values in scorers.items():
        axes.scatter(values["coverage"], values["novelty"]["mean"], s=70, color=COLOURS[scorer])
        axes.annotate(
            LABELS[scorer],
            (values["coverage"], values["novelty"]["mean"]),
            xytext=(6, 5),
            textcoords="offset points",
            fontsize=8,
        )
    axes.margins(x=0.35, y=0.2)
    axes.set(xlabel="coverage: share of the catalogue recommended", ylabel="novelty (bits)")
    return figure


def _inline(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
