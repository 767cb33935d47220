"""A number with what is known of its error."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """`low` and `high` bound the interval of `confidence`; None where there is nothing to tell it from."""

    value: float | None
    low: float | None
    high: float | None
    standard_error: float | None
    confidence: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def unknown(confidence: float) -> Estimate:
    return Estimate(value=None, low=None, high=None, standard_error=None, confidence=confidence)


def around(value: float, standard_error: float, confidence: float) -> Estimate:
    """The normal interval, value ± z · standard error."""
    if not np.isfinite(value):
        return unknown(confidence)
    if not np.isfinite(standard_error):
        return Estimate(value=value, low=None, high=None, standard_error=None, confidence=confidence)
    half = float(stats.norm.ppf(0.5 + confidence / 2)) * standard_error
    return Estimate(
        value=value, low=value - half, high=value + half, standard_error=standard_error, confidence=confidence
    )


def sums_by(cluster: Integers, values: Floats) -> Floats:
    """Sum of `values` in each cluster; clusters are 0, 1, … without gaps. [clusters]"""
    return np.asarray(np.bincount(cluster, weights=values, minlength=int(cluster.max(initial=-1)) + 1), np.float64)
