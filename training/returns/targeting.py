"""How good it is to contact first whom an uplift model names first.

The curve is what contacting the best k of n users gains, per user of all n: G(k) = Σ_{i ≤ k} ψ_i / n, ψ being unbiased
for each user's effect. AUUC is the area under it, k from 0 to n as 0 to 1. Qini is AUUC less that of a random order,
G(n)/2: how much the order itself is worth (Radcliffe 2007; here in returns per user, not in shares of the whole).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from training.returns.examples import Floats

SAMPLES: Final = 1_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number, and where it lies with the level's confidence."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Targeting:
    """All in returns per user."""

    auuc: Interval
    qini: Interval
    mean_effect: Interval


def qini_curve(effect: Floats, gain: Floats) -> Floats:
    """G(1), …, G(n); equal effects share what they gain. [n]

    >>> qini_curve(np.array([3.0, 2.0, 1.0]), np.array([1.0, 1.0, -0.5]))
    array([0.33333333, 0.66666667, 0.5       ])
    """
    return _curve(effect, gain, np.ones(len(gain)))


def judge(
    effect: Floats, gain: Floats, user_id: npt.NDArray[np.object_], *, level: float = 0.95, seed: int = 0
) -> Targeting:
    """With intervals by a bootstrap over users, whose trials stay together."""
    rng = np.random.default_rng(seed)
    _, user = np.unique(user_id.astype(str), return_inverse=True)
    users = int(user.max()) + 1
    found = np.array(
        [
            _measures(effect, gain, rng.multinomial(users, np.full(users, 1 / users))[user].astype(np.float64))
            for _ in range(SAMPLES)
        ]
    )
    bounds = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
    values = _measures(effect, gain, np.ones(len(gain)))
    auuc, qini, mean = (
        Interval(value=float(value), low=float(low), high=float(high))
        for value, low, high in zip(values, *bounds, strict=True)
    )
    return Targeting(auuc=auuc, qini=qini, mean_effect=mean)


def _measures(effect: Floats, gain: Floats, weight: Floats) -> tuple[float, float, float]:
    """AUUC, Qini and the mean effect, each trial counted `weight` times."""
    curve, mean = _curve(effect, gain, weight), float(np.average(gain, weights=weight))
    between = (curve + np.concatenate([[0.0], curve[:-1]])) / 2
    area = float(np.average(between, weights=weight[np.argsort(-effect, kind="stable")]))
    return area, area - mean / 2, mean


def _curve(effect: Floats, gain: Floats, weight: Floats) -> Floats:
    order = np.argsort(-effect, kind="stable")
    ranked, total = effect[order], weight.sum()
    gained = np.cumsum((gain * weight)[order]) / total
    counted = np.cumsum(weight[order])
    last = np.searchsorted(-ranked, -ranked, side="right") - 1  # of those with an equal effect
    first = np.searchsorted(-ranked, -ranked, side="left")
    before, counted_before = (np.where(first > 0, values[first - 1], 0.0) for values in (gained, counted))
    among = np.maximum(counted[last] - counted_before, 1e-300)
    return np.asarray(before + (gained[last] - before) * (counted - counted_before) / among)
