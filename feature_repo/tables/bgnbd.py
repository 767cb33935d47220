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
_PART: Final = 4_096  # users whose numbers stay in the processor's cache
_TINY: Final = -600.0  # exponents below give denormal numbers, which are slow and weigh nothing
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
    shares = weights / weights.sum()
    parts = [
        (_Users.of(x[part], t_x[part] / scale, age[part] / scale), shares[part])
        for part in (slice(start, start + _PART) for start in range(0, len(x), _PART))
    ]

    def loss(log_parameters: Floats) -> tuple[float, Floats]:
        parameters, value, slope = np.exp(log_parameters), 0.0, np.zeros(4)
        for users, weight in parts:
            likelihood, its_slope = _likelihood(parameters, users)
            value -= float(likelihood @ weight)
            slope -= its_slope @ weight * parameters
        return (value, slope) if np.isfinite(value) and np.isfinite(slope).all() else (1e10, np.zeros(4))

    found = optimize.minimize(loss, np.zeros(4), jac=True, method="L-BFGS-B", bounds=[_LOG_BOUNDS] * 4)
    if not found.success or not np.isfinite(found.fun) or found.fun >= 1e10:
        _log.warning("P(alive) stays missing: BG/NBD has no optimum on these data (%s)", found.message)
        return None
    r, alpha, a, b = np.exp(found.x)
    return BgNbd(r=float(r), alpha=float(alpha * scale), a=float(a), b=float(b))


def log_likelihood(parameters: Floats, x: Floats, t_x: Floats, age: Floats) -> Floats:
    """Of each user, equation (6) of the paper in logarithms, as A1 + A2 + log(e^A3 + [x > 0] e^A4). [users]"""
    return _likelihood(parameters, _Users.of(x, t_x, age))[0]


def gradient(parameters: Floats, x: Floats, t_x: Floats, age: Floats) -> Floats:
    """Of `log_likelihood` by r, α, a and b. [4, users]"""
    return _likelihood(parameters, _Users.of(x, t_x, age))[1]


@dataclass(frozen=True, kw_only=True)
class _Users:
    """`x` is `counts[place]`: there are few counts of visits, and the special functions need no more than those."""

    x: Floats
    t_x: Floats
    age: Floats
    counts: Floats  # [counts]
    place: npt.NDArray[np.intp]

    @classmethod
    def of(cls, x: Floats, t_x: Floats, age: Floats) -> _Users:
        counts, place = np.unique(x, return_inverse=True)
        return cls(x=x, t_x=t_x, age=age, counts=counts, place=place)


def _likelihood(parameters: Floats, users: _Users) -> tuple[Floats, Floats]:
    """`log_likelihood` and `gradient`."""
    r, alpha, a, b = parameters
    n = users.counts  # [counts]
    a1_and_a2 = special.gammaln(r + n) - special.gammaln(r) + r * np.log(alpha)
    a1_and_a2 += special.betaln(a, b + n) - special.betaln(a, b)
    before_a4 = np.where(n > 0, np.log(a) - np.log(b + np.where(n > 0, n, 1.0) - 1.0), -np.inf)
    both = special.digamma(a + b) - special.digamma(a + b + n)
    by_r = special.digamma(r + n) - special.digamma(r) + np.log(alpha)
    by_b = both + special.digamma(b + n) - special.digamma(b)
    if_lost = -1.0 / (b + np.where(n > 0, n, 1.0) - 1.0)

    visits, place = r + users.x, users.place  # [users]
    log_age, log_t_x = np.log(alpha + users.age), np.log(alpha + users.t_x)
    a3, a4 = -visits * log_age, before_a4[place] - visits * log_t_x
    together = np.logaddexp(a3, a4)
    lost = np.exp(np.maximum(a4 - together, _TINY))  # the share of e^A4
    alive = 1.0 - lost
    slope = np.stack(
        [
            by_r[place] - alive * log_age - lost * log_t_x,
            r / alpha - visits * (alive / (alpha + users.age) + lost / (alpha + users.t_x)),
            both[place] + lost / a,
            by_b[place] + lost * if_lost[place],
        ]
    )
    return a1_and_a2[place] + together, slope
