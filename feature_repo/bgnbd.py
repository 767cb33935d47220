"""BG/NBD: is a silent user gone, and how often will they come? (Fader, Hardie and Lee 2005)

P. S. Fader, B. G. S. Hardie, K. L. Lee. "Counting Your Customers" the Easy Way: An Alternative to the Pareto/NBD
Model. Marketing Science 24(2), 2005, 275-284. https://doi.org/10.1287/mksc.1040.0098

A user comes at a rate λ ~ Gamma(r, α) and, after each visit, is lost with probability p ~ Beta(a, b). What is known
of a user is x, the active days after the first; t_x, the day of the last, from the first; T, today, from the first.
In the model nobody is lost before a second visit: P(alive) of a user seen on one day only is 1 by construction.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

Floats = npt.NDArray[np.float64]

MIN_RETURNING_USERS: Final = 10
FITTED_GROUPS: Final = 50_000  # beyond it, that many spread evenly: four numbers need no more
_LOG_BOUNDS: Final = (-12.0, 12.0)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BgNbd:
    """A fitted model; `alpha` in days."""

    r: float
    alpha: float
    a: float
    b: float

    def p_alive(self, x: Floats, t_x: Floats, age: Floats) -> Floats:
        """P(not lost | x, t_x, T): 1 / (1 + [x > 0] · a/(b + x − 1) · ((α + T)/(α + t_x))^(r + x)). [users]"""
        return 1.0 / (1.0 + self._odds_of_loss(x, t_x, age))

    def expected_visits(self, horizon_days: float, x: Floats, t_x: Floats, age: Floats) -> Floats:
        """E[active days in the next `horizon_days` | x, t_x, T], equation (10) of the paper. [users]"""
        # a = 1 is a removable singularity; the formula is smooth through it
        a = self.a if abs(self.a - 1.0) > 1e-5 else 1.0 + 1e-5
        shape = self.r + x
        after = self.alpha + age + horizon_days
        hyper = special.hyp2f1(shape, self.b + x, a + self.b + x - 1.0, horizon_days / after)
        unconditional = (a + self.b + x - 1.0) / (a - 1.0) * (1.0 - ((self.alpha + age) / after) ** shape * hyper)
        return np.asarray(unconditional * self.p_alive(x, t_x, age), dtype=np.float64)

    def p_visit(self, horizon_days: float, x: Floats, t_x: Floats, age: Floats) -> Floats:
        """P(a visit in the next `horizon_days` | x, t_x, T): alive, and λ ~ Gamma(r + x, α + T) gives one. [users]"""
        after = self.alpha + age + horizon_days
        return self.p_alive(x, t_x, age) * (1.0 - ((self.alpha + age) / after) ** (self.r + x))

    def _odds_of_loss(self, x: Floats, t_x: Floats, age: Floats) -> Floats:
        returned = x > 0
        safe_x = np.where(returned, x, 1.0)
        log_odds = (
            np.log(self.a)
            - np.log(self.b + safe_x - 1.0)
            + (self.r + safe_x) * (np.log(self.alpha + age) - np.log(self.alpha + t_x))
        )
        return np.where(returned, np.exp(np.minimum(log_odds, 700.0)), 0.0)


def fit(x: Floats, t_x: Floats, age: Floats, weights: Floats | None = None) -> BgNbd | None:
    """Maximum likelihood over users, `weights` being how many there are of each (x, t_x, T).

    None, with a warning, when the data cannot tell: too few users who returned, or no finite optimum.
    """
    weights = np.ones_like(x) if weights is None else weights
    returning = float(weights[x > 0].sum())
    if returning < MIN_RETURNING_USERS:
        _log.warning(
            "P(alive) stays missing: %.0f users came on a second day, BG/NBD needs %d", returning, MIN_RETURNING_USERS
        )
        return None
    x, t_x, age, weights = (values[:: math.ceil(len(x) / FITTED_GROUPS)] for values in (x, t_x, age, weights))
    scale = max(float(np.average(age, weights=weights)), 1.0)  # days → about 1, so that one start serves all data
    scaled = (x, t_x / scale, age / scale)

    def loss(log_parameters: Floats) -> tuple[float, Floats]:
        parameters = np.exp(log_parameters)
        value = -float(np.average(log_likelihood(parameters, *scaled), weights=weights))
        slope = -np.average(gradient(parameters, *scaled), axis=1, weights=weights) * parameters
        return (value, slope) if np.isfinite(value) and np.isfinite(slope).all() else (1e10, np.zeros(4))

    found = optimize.minimize(loss, np.zeros(4), jac=True, method="L-BFGS-B", bounds=[_LOG_BOUNDS] * 4)
    if not found.success or not np.isfinite(found.fun) or found.fun >= 1e10:
        _log.warning("P(alive) stays missing: BG/NBD has no optimum on these data (%s)", found.message)
        return None
    r, alpha, a, b = np.exp(found.x)
    return BgNbd(r=float(r), alpha=float(alpha * scale), a=float(a), b=float(b))


def log_likelihood(parameters: Floats, x: Floats, t_x: Floats, age: Floats) -> Floats:
    """Of each user, equation (6) of the paper in logarithms, as A1 + A2 + log(e^A3 + [x > 0] e^A4). [users]"""
    _, _, a, b = parameters
    a1, a3, a4 = _terms(parameters, x, t_x, age)
    a2 = special.betaln(a, b + x) - special.betaln(a, b)
    return np.asarray(a1 + a2 + np.logaddexp(a3, a4), dtype=np.float64)


def gradient(parameters: Floats, x: Floats, t_x: Floats, age: Floats) -> Floats:
    """Of `log_likelihood` by r, α, a and b. [4, users]"""
    r, alpha, a, b = parameters
    _, a3, a4 = _terms(parameters, x, t_x, age)
    lost = np.exp(a4 - np.logaddexp(a3, a4))  # the share of e^A4
    alive, ages = 1.0 - lost, (alpha + age, alpha + t_x)
    both = special.digamma(a + b) - special.digamma(a + b + x)
    return np.stack(
        [
            special.digamma(r + x)
            - special.digamma(r)
            + np.log(alpha)
            - alive * np.log(ages[0])
            - lost * np.log(ages[1]),
            r / alpha - (r + x) * (alive / ages[0] + lost / ages[1]),
            both + lost / a,
            both + special.digamma(b + x) - special.digamma(b) - lost / (b + np.where(x > 0, x, 1.0) - 1.0),
        ]
    )


def _terms(parameters: Floats, x: Floats, t_x: Floats, age: Floats) -> tuple[Floats, Floats, Floats]:
    """A1, A3 and, −∞ for who never returned, A4. [users]"""
    r, alpha, a, b = parameters
    returned = x > 0
    safe_x = np.where(returned, x, 1.0)
    a1 = special.gammaln(r + x) - special.gammaln(r) + r * np.log(alpha)
    a3 = -(r + x) * np.log(alpha + age)
    a4 = np.log(a) - np.log(b + safe_x - 1.0) - (r + x) * np.log(alpha + t_x)
    return a1, a3, np.where(returned, a4, -np.inf)
