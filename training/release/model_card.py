"""The model card, beside the model: what it is for, what it learnt from, how good it is, why it was released.

After M. Mitchell et al. Model Cards for Model Reporting. FAT* 2019. https://doi.org/10.1145/3287560.3287596
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from training.export.serving_contract import MEASURED
from training.release.gate import Verdict


def model_card(
    report: Mapping[str, Any], contract: Mapping[str, Any], verdict: Verdict, *, override: str | None
) -> str:
    """Markdown, with the metadata that model hubs read at its head."""
    environment = Environment(
        loader=PackageLoader("training.release", "."),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701  Markdown
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"interval": _interval, "thousands": lambda count: f"{count:,}", "fill": _fill}
    return environment.get_template("model_card.md.j2").render(
        **{name: value for name, value in report.items() if name not in ("settings", "curve", "compression")},
        model_name=contract["model_name"],
        git_revision=contract["git_revision"],
        served_until=contract["training_window"]["end"],
        measured=MEASURED,
        compression=contract.get("compression", "none"),
        missing_values=contract.get("missing_values"),
        scorers=list(report["slices"]["all"]["scorers"]),
        verdict=verdict,
        override=override,
    )


def _interval(value: Mapping[str, float | None]) -> str:
    mean, error = value["mean"], value["error"]
    return "–" if mean is None else f"{mean:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _fill(value: float | list[float] | None) -> str:
    if value is None:
        return "missing, and the model is told"
    return ", ".join(f"{one:.4g}" for one in value) if isinstance(value, list) else f"{value:.4g}"
