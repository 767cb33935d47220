"""Two exported versions asked the same test question, user by user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from feature_repo.errors import LongtailError
from training.evaluation import metrics
from training.evaluation.assessment import Assessment, assess
from training.examples.preparation import prepare
from training.examples.split import split
from training.export.serving_contract import read_contract
from training.fitting.runs import Run
from training.release.incumbent import Published

METRICS: Final = ("ndcg", "recall", "hit_rate", "mrr", "auc", "novelty")
ERRORS: Final = 2.0  # standard errors from 0 at which a difference is told


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric in one slice; `difference` is the second version's less the first's, per user."""

    slice: str
    users: int
    metric: str
    first: float
    second: float
    difference: float
    error: float | None  # None for a single user

    @property
    def verdict(self) -> str:
        """better, worse, or nothing that can be told."""
        if self.error is None or abs(self.difference) <= ERRORS * self.error:
            return ""
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`differences` by slice, in the order of METRICS."""

    first: int
    second: int
    differences: tuple[Difference, ...]

    def as_json(self) -> dict[str, Any]:
        rows = [asdict(one) | {"verdict": one.verdict} for one in self.differences]
        return {"first": self.first, "second": self.second, "errors": ERRORS, "differences": rows}


def find(named: str, folders: tuple[Path, ...], *, user_weights: Path) -> Published:
    """A version by its number, in the first of `folders` that has it, or a SavedModel by its path."""
    places = [folder / named for folder in folders if named.isdecimal()]
    for directory in (*places, Path(named)):
        if (directory / "saved_model.pb").exists():
            version = int(read_contract(directory)["model_version"])
            return Published(version=version, directory=directory, user_weights=user_weights)
    known = sorted({path.name for folder in folders for path in folder.glob("*") if path.name.isdecimal()})
    raise LongtailError(
        f"--compare names {named!r}, which is neither a version nor a SavedModel; there are "
        f"{', '.join(known) or 'none: run `longtail export`'}"
    )


def asked(run: Run, versions: Mapping[str, Published]) -> Assessment:
    """The test of the temporal split. Raises LongtailError for one that learnt from it or cannot be asked."""
    question = split(run.log, "temporal", run.settings).test
    for version in versions.values():
        if trouble := version.trouble(cut_us=question.cut_us):
            raise LongtailError(f"version {version.version} cannot be compared: {trouble}")
    prepared = prepare(question.fit, question.cut_us)
    columns = run.user_columns(question.moments)
    row_items = question.fit.item_ids[prepared.known_items]
    scorers = {name: version.scorer(question, columns.features, row_items) for name, version in versions.items()}
    return assess(question, prepared, scorers, columns.state, settings=run.settings)


def compare(run: Run, first: Published, second: Published) -> Comparison:
    """Both on the test of the temporal split, user by user."""
    assessment = asked(run, {"first": first, "second": second})
    one, other = (assessment.answers[name].per_user for name in ("first", "second"))
    return Comparison(
        first=first.version,
        second=second.version,
        differences=tuple(
            difference(name, metric, users, one, other)
            for name, users in assessment.slices.items()
            if users.any()
            for metric in METRICS
        ),
    )


def difference(
    name: str, metric: str, users: np.ndarray, one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> Difference:
    """The other's less the one's over these users, per user."""
    pair = one[metric][users], other[metric][users]
    known = np.isfinite(pair[0]) & np.isfinite(pair[1])
    first, second = (values[known] for values in pair)
    mean, error = metrics.mean_and_error(second - first)
    return Difference(
        slice=name,
        users=int(known.sum()),
        metric=metric,
        first=float(first.mean()) if len(first) else float("nan"),
        second=float(second.mean()) if len(second) else float("nan"),
        difference=float(mean),
        error=float(error) if np.isfinite(error) else None,
    )
