"""What many trials show: pure.

Trials are of one seed each and independent; intervals of ratios and differences come from drawing seeds anew
(bootstrap). Rivals contact as many users as longtail, round by round, so returns compare without weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from simulator.study import Trials
from simulator.trial import LONGTAIL, NOBODY, RIVALS, Interval, Lived

RESAMPLES: Final = 4000
LEAST_RATIO: Final = 1.3
COVERAGE: Final = (0.93, 0.97)
MOST_NULL_CLAIMS: Final = 0.05
MOST_HARM: Final = -0.01  # of the events of active users

Floats = npt.NDArray[np.float64]


def summarize(effective: Trials, null: Trials) -> dict[str, Any]:
    """As JSON has it; `checks` says of each promise whether it holds."""
    ways = list(next(iter(effective.values()))) if effective else []
    report: dict[str, Any] = {
        "seeds": len(effective),
        "null_seeds": len(null),
        "ways": {name: _way([lived[name] for lived in effective.values()]) for name in ways},
        "decisions": sum(
            lived.decisions for found in (effective, null) for ways in found.values() for lived in ways.values()
        ),
        "intervals": _intervals(effective),
        "null_intervals": _intervals(null),
    }
    if effective:
        report["ratio"] = _ratio(effective)
        report["active_users"] = _harm(effective)
    return report | {"checks": _checks(report)}


def _way(lived: Sequence[Lived]) -> dict[str, Any]:
    contacts = sum(sum(one.contacts) for one in lived)
    incremental = sum(one.incremental for one in lived)
    return {
        "contacts": contacts,
        "incremental_returns": incremental,
        "per_contact": incremental / contacts if contacts else None,
        "opt_outs": sum(one.opt_outs for one in lived),
        "weekly_users": sum(one.weekly_users for one in lived),
        "broken_rules": [rule for one in lived for rule in one.broken_rules],
        "suppressed": dict(sum((Counter(one.suppressed) for one in lived), Counter())),
    }


def _ratio(trials: Trials) -> dict[str, Any]:
    """Incremental returns, longtail over the better rival of all seeds together."""
    ours, *theirs = (_column(trials, name, lambda lived: lived.incremental) for name in (LONGTAIL, *RIVALS))

    def ratio(seeds: npt.NDArray[np.intp]) -> float:
        return float(ours[seeds].sum() / max(rival[seeds].sum() for rival in theirs))

    low, high = _bootstrap(ratio, len(ours))
    return {"value": ratio(np.arange(len(ours))), "low": low, "high": high}


def _harm(trials: Trials) -> dict[str, Any]:
    """Events of users who were active before the first round, longtail over nobody, less 1."""
    ours, nobody = (_column(trials, name, lambda lived: lived.active_visits) for name in (LONGTAIL, NOBODY))

    def change(seeds: npt.NDArray[np.intp]) -> float:
        return float(ours[seeds].sum() / nobody[seeds].sum() - 1)

    low, high = _bootstrap(change, len(ours))
    return {"change": change(np.arange(len(ours))), "low": low, "high": high}


def _intervals(trials: Trials) -> dict[str, Any]:
    """Of longtail's reports: in how many campaigns an effect is told, whether rightly, and how often it is claimed."""
    found: list[Interval] = [one for lived in trials.values() for one in lived[LONGTAIL].intervals]
    told = [one for one in found if one.is_told]
    return {
        "campaigns": len(found),
        "told": len(told),
        "coverage": float(np.mean([one.covers for one in told])) if told else None,
        "excluding_zero": float(np.mean([one.excludes_zero for one in told])) if told else None,
        "claims": float(np.mean([one.verdict in ("positive", "negative") for one in found])) if found else None,
        "verdicts": dict(Counter(one.verdict for one in found)),
    }


def _checks(report: Mapping[str, Any]) -> dict[str, bool]:
    checks = {"no rule broken": not any(way["broken_rules"] for way in report["ways"].values())}
    if "ratio" in report:
        coverage = report["intervals"]["coverage"]
        checks[f"incremental returns at least {LEAST_RATIO} of the better rival's"] = (
            report["ratio"]["value"] >= LEAST_RATIO
        )
        checks["intervals cover the truth in 93 to 97 %"] = (
            coverage is not None and COVERAGE[0] <= coverage <= COVERAGE[1]
        )
        checks["active users are not harmed"] = report["active_users"]["low"] >= MOST_HARM
    claims = report["null_intervals"]["claims"]
    if claims is not None:
        checks["at most 5 % claims where a contact does nothing"] = claims <= MOST_NULL_CLAIMS
    return checks


def _column(trials: Trials, name: str, of: Callable[[Lived], float]) -> Floats:
    return np.array([of(lived[name]) for lived in trials.values()], np.float64)


def _bootstrap(statistic: Callable[[npt.NDArray[np.intp]], float], seeds: int) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    drawn = [statistic(rng.integers(seeds, size=seeds)) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
