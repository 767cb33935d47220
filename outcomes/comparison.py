"""Treated against held out, user by user, where who is held out was drawn with a known probability: pure.

    Ỹ = Y − θ (X − X̄), θ = cov(X, Y) / var(X)         CUPED: Deng, Xu, Kohavi, Walker, WSDM 2013
    τ_i = (Ỹ_i − mean Ỹ) (Z_i − p_i) / (p_i (1 − p_i))      inverse-propensity score, centred; its mean is the effect

Y is the outcome, X what was known before, Z 1 for treated with probability p. Two intervals of the mean of τ are given:
the normal one, for one look at a size that was fixed before; and one that holds at every look, however often one looks
(asymptotic confidence sequence: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, Annals of Statistics 2024), with ρ² such
that it is tightest at 1,000 users:

    mean τ ± s √( 2 (n ρ² + 1) / (n² ρ²) · log( √(n ρ² + 1) / α ) )

Whether the arms have the sizes that were drawn for is tested first (sample-ratio mismatch: Fabijan et al., KDD 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from outcomes.estimate import Estimate, Floats, around, unknown

SRM_P: Final = 1e-3  # below it the arms are not what was drawn
LEAST_USERS: Final = 20  # of an arm: below, nothing is told
LEAST_EXPECTED: Final = 5.0  # outcomes in the smaller arm, if both were alike (Cochran 1954): below, neither is then

TIGHTEST_USERS: Final = 1000

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`effect` is treated less held out, per user. `srm_p` is the probability of arms at least as uneven by chance."""

    treated: int
    held_out: int
    treated_rate: float | None
    held_out_rate: float | None
    effect: Estimate  # for one look
    always: Estimate  # for any number of looks
    srm_p: float | None

    @property
    def is_mismatched(self) -> bool:
        return self.srm_p is not None and self.srm_p < SRM_P

    @property
    def verdict(self) -> str:
        """What may be said: an effect is claimed only on the interval that holds at every look."""
        if self.is_mismatched:
            return "mismatch"
        if self.always.low is None or self.always.high is None:
            return "too_few"
        return "positive" if self.always.low > 0 else "negative" if self.always.high < 0 else "not_shown"

    def as_json(self) -> dict[str, Any]:
        return {
            "treated": self.treated,
            "held_out": self.held_out,
            "treated_rate": self.treated_rate,
            "held_out_rate": self.held_out_rate,
            "effect": self.effect.as_json(),
            "always": self.always.as_json(),
            "srm_p": self.srm_p,
            "verdict": self.verdict,
        }


def compare(outcome: Floats, before: Floats, is_treated: Bools, propensity: Floats, *, confidence: float) -> Comparison:
    """All [users]. `before` is what was known of a user before; `propensity` that of being treated."""
    treated, users = int(is_treated.sum()), len(outcome)
    effect = always = unknown(confidence)
    smaller = min(treated, users - treated)
    if smaller >= LEAST_USERS and smaller * np.count_nonzero(outcome) / users >= LEAST_EXPECTED:
        scores = _scores(_adjusted(outcome, before), is_treated, propensity)
        mean, deviation = float(scores.mean()), float(scores.std(ddof=1))
        effect = around(mean, deviation / math.sqrt(users), confidence)
        half = deviation * always_valid_width(users, 1 - confidence)
        always = Estimate(
            value=mean, low=mean - half, high=mean + half, standard_error=effect.standard_error, confidence=confidence
        )
    return Comparison(
        treated=treated,
        held_out=users - treated,
        treated_rate=float(outcome[is_treated].mean()) if treated else None,
        held_out_rate=float(outcome[~is_treated].mean()) if users > treated else None,
        effect=effect,
        always=always,
        srm_p=sample_ratio_p(is_treated, propensity),
    )


def always_valid_width(users: int, alpha: float) -> float:
    """Half the width of the confidence sequence after so many users, in standard deviations."""
    log_term = -2 * math.log(alpha)
    rho2 = (log_term + math.log(log_term + 1)) / TIGHTEST_USERS  # of the same paper; fixed, or looking would choose it
    scaled = users * rho2 + 1
    return math.sqrt(2 * scaled / (users**2 * rho2) * math.log(math.sqrt(scaled) / alpha))


def sample_ratio_p(is_treated: Bools, propensity: Floats) -> float | None:
    """Two-sided, normal; None where nothing was drawn."""
    variance = float((propensity * (1 - propensity)).sum())
    if variance <= 0:
        return None
    z = (float(is_treated.sum()) - float(propensity.sum())) / math.sqrt(variance)
    return float(2 * stats.norm.sf(abs(z)))


def _adjusted(outcome: Floats, before: Floats) -> Floats:
    variance = float(before.var())
    if variance == 0:
        return outcome
    theta = float(np.mean((before - before.mean()) * (outcome - outcome.mean()))) / variance
    adjusted: Floats = outcome - theta * (before - before.mean())
    return adjusted


def _scores(adjusted: Floats, is_treated: Bools, propensity: Floats) -> Floats:
    scores: Floats = (adjusted - adjusted.mean()) * (is_treated - propensity) / (propensity * (1 - propensity))
    return scores
