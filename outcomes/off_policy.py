"""Off-policy evaluation: what would another policy have earned on the same requests? Pure.

A round t is one item at one place: reward r_t, the logging policy's propensity p_t = π_b(a_t | x_t), the other policy's
probability of the same item π_e(a_t | x_t). With w_t = π_e / π_b and a model of the reward q̂:

| estimator | value | source |
|---|---|---|
| IPS   | mean(w r) | Horvitz and Thompson 1952 |
| SNIPS | mean(w r) / mean(w) | Swaminathan and Joachims 2015, The Self-Normalized Estimator |
| DM    | mean(Σ_a π_e(a | x) q̂(x, a)) | Dudík, Langford and Li 2011, Doubly Robust Policy Evaluation and Learning |
| DR    | mean(Σ_a π_e(a | x) q̂(x, a) + w (r − q̂(x, a_t))) | as DM |

Standard errors are those of a mean of influence values summed by cluster (a decision's items are not independent):
IPS, DM and DR have the summand itself, SNIPS (w (r − v)) / mean(w). The bootstrap draws clusters.
Effective sample size is (Σ w)² / Σ w² (Kong 1992).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from outcomes.errors import OutcomeError
from outcomes.estimate import Estimate, Floats, Integers, around, sums_by

_CHUNK: Final = 256  # bootstrap samples at once


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """What was logged, and what the other policy would have done. All arrays are [rounds]."""

    reward: Floats
    propensity: Floats  # π_b(a_t | x_t)
    target: Floats  # π_e(a_t | x_t)
    cluster: Integers  # 0, 1, … without gaps: rounds that may depend on each other
    expected_logged: Floats | None = None  # q̂(x_t, a_t)
    expected_target: Floats | None = None  # Σ_a π_e(a | x_t) q̂(x_t, a)
    unsupported_mass: Floats | None = None  # Σ_a π_e(a | x_t) over items the logging policy never shows; None: unknown

    @property
    def weight(self) -> Floats:
        return self.target / self.propensity


@dataclass(frozen=True, kw_only=True)
class Support:
    """When the log cannot answer."""

    least_effective_sample: float = 100.0
    most_unsupported_mass: float = 0.01
    most_weight_drift: float = 0.05  # |mean(w) − 1| that is refused once beyond four standard errors


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Estimates by name, beside what the logging policy earned itself."""

    rounds: int
    clusters: int
    logged: Estimate
    estimates: Mapping[str, Estimate]
    effective_sample_size: float
    mean_weight: float
    largest_weight: float
    unsupported_mass: float | None

    def as_json(self) -> dict[str, Any]:
        return {
            "rounds": self.rounds,
            "clusters": self.clusters,
            "logged": self.logged.as_json(),
            "estimates": {name: estimate.as_json() for name, estimate in self.estimates.items()},
            "effective_sample_size": self.effective_sample_size,
            "mean_weight": self.mean_weight,
            "largest_weight": self.largest_weight,
            "unsupported_mass": self.unsupported_mass,
        }


def evaluate(
    rounds: Rounds, *, confidence: float = 0.95, bootstrap: int = 0, seed: int = 0, support: Support | None = None
) -> Evaluation:
    """Every estimator the rounds allow. Raises OutcomeError when the log cannot support an answer."""
    check(rounds)
    weight = rounds.weight
    effective = effective_sample_size(weight)
    unsupported = None if rounds.unsupported_mass is None else float(rounds.unsupported_mass.mean())
    _refuse_without_support(rounds, effective, unsupported, support or Support())
    draw = _Bootstrap(rounds.cluster, bootstrap, seed) if bootstrap else None
    one = np.ones_like(weight)
    parts = {"IPS": (weight * rounds.reward, one), "SNIPS": (weight * rounds.reward, weight)}
    if rounds.expected_logged is not None and rounds.expected_target is not None:
        parts["DM"] = (rounds.expected_target, one)
        parts["DR"] = (rounds.expected_target + weight * (rounds.reward - rounds.expected_logged), one)
    return Evaluation(
        rounds=len(weight),
        clusters=int(rounds.cluster.max()) + 1,
        logged=_ratio(rounds.reward, one, rounds.cluster, confidence, draw),
        estimates={
            name: _ratio(top, bottom, rounds.cluster, confidence, draw) for name, (top, bottom) in parts.items()
        },
        effective_sample_size=effective,
        mean_weight=float(weight.mean()),
        largest_weight=float(weight.max()),
        unsupported_mass=unsupported,
    )


def check(rounds: Rounds) -> None:
    """Raises OutcomeError for what is no log of probabilities."""
    if not len(rounds.reward):
        raise OutcomeError("the log has no round; off-policy evaluation needs decisions with a propensity")
    for name, low_is_open in (("propensity", True), ("target", False)):
        given = getattr(rounds, name)
        wrong = ~np.isfinite(given) | (given > 1 + 1e-9) | ((given <= 0) if low_is_open else (given < 0))
        if wrong.any():
            allowed = "(0, 1]" if low_is_open else "[0, 1]"
            raise OutcomeError(
                f"{name} is {given[wrong][0]!r} in {int(wrong.sum())} of {len(given)} rounds; give probabilities in "
                f"{allowed}. A round whose propensity was not logged cannot be used"
            )
    if not np.isfinite(rounds.reward).all():
        raise OutcomeError("reward is not a finite number in every round; give 0 for no reward")


def effective_sample_size(weight: Floats) -> float:
    """(Σ w)² / Σ w²: how many rounds of the other policy itself would tell as much.

    >>> effective_sample_size(np.array([2.0, 0.0, 2.0, 0.0]))
    2.0
    """
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0


def _refuse_without_support(rounds: Rounds, effective: float, unsupported: float | None, support: Support) -> None:
    mend = "log with exploration that reaches these items, or evaluate a policy nearer to the logged one"
    if unsupported is not None and unsupported > support.most_unsupported_mass:
        raise OutcomeError(
            f"no support: {unsupported:.1%} of what the policy would show was never shown by the logging policy "
            f"(at most {support.most_unsupported_mass:.1%} is allowed); {mend}"
        )
    if effective < support.least_effective_sample:
        raise OutcomeError(
            f"no support: the effective sample size is {effective:.0f} of {len(rounds.reward)} rounds (at least "
            f"{support.least_effective_sample:.0f} is needed); {mend}"
        )
    drift = _ratio(rounds.weight - 1, np.ones_like(rounds.weight), rounds.cluster, 0.95, None)
    if drift.value is not None and drift.standard_error is not None:
        is_sure = abs(drift.value) > 4 * drift.standard_error
        if is_sure and abs(drift.value) > support.most_weight_drift:
            raise OutcomeError(
                f"no support: weights average {1 + drift.value:.3f}, not 1: the policy shows items the log does not, "
                f"or a logged propensity is wrong; {mend}"
            )


def _ratio(top: Floats, bottom: Floats, cluster: Integers, confidence: float, draw: _Bootstrap | None) -> Estimate:
    """Σ top / Σ bottom and its interval; the error by the delta method, clusters being independent."""
    value = float(top.sum() / bottom.sum())
    influence = sums_by(cluster, (top - value * bottom) / bottom.sum())
    clusters = len(influence)
    if clusters < 2:
        return around(value, float("nan"), confidence)
    error = float(np.sqrt((influence**2).sum() * clusters / (clusters - 1)))
    if draw is None:
        return around(value, error, confidence)
    low, high = draw.interval(sums_by(cluster, top), sums_by(cluster, bottom), confidence)
    return Estimate(value=value, low=low, high=high, standard_error=error, confidence=confidence)


@dataclass(frozen=True)
class _Bootstrap:
    """Percentile bootstrap over clusters; the same draws for every estimator."""

    cluster: Integers
    samples: int
    seed: int

    def interval(self, top: Floats, bottom: Floats, confidence: float) -> tuple[float, float]:
        rng = np.random.default_rng(self.seed)
        clusters = len(top)
        ratios = []
        for start in range(0, self.samples, _CHUNK):
            counts = rng.multinomial(clusters, np.full(clusters, 1 / clusters), min(_CHUNK, self.samples - start))
            ratios.append((counts @ top) / np.maximum(counts @ bottom, 1e-300))  # [samples]
        tail = (1 - confidence) / 2
        low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
        return float(low), float(high)
