"""What is said of many trials."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.trial import LONGTAIL, NOBODY, POPULARITY, RELEVANCE, Interval, Lived
from simulator.verdict import summarize


def interval(truth: float, low: float | None, high: float | None, verdict: str = "not_shown") -> Interval:
    return Interval(low=low, high=high, truth=truth, verdict=verdict)


def lived(incremental: float, *, active: float = 10.0, intervals: list[Interval] | None = None) -> Lived:
    return Lived(
        contacts=[100],
        incremental=incremental,
        lift=[0.1],
        active_visits=active,
        intervals=intervals or [],
        decisions=100,
    )


def trials(ours: float, relevance: float, popularity: float, active: float = 10.0) -> dict[int, dict[str, Lived]]:
    noise = np.random.default_rng(0).normal(0, 0.3, (30, 3))
    return {
        seed: {
            LONGTAIL: lived(ours + a, active=active, intervals=[interval(0.1, 0.0, 0.2)]),
            RELEVANCE: lived(relevance + b),
            POPULARITY: lived(popularity + c),
            NOBODY: lived(0.0),
        }
        for seed, (a, b, c) in enumerate(noise)
    }


def test_longtail_is_held_against_the_better_rival() -> None:
    report = summarize(trials(14, 10, 5), {})
    assert report["ratio"]["value"] == pytest.approx(1.4, abs=0.02)
    assert report["ratio"]["low"] < 1.4 < report["ratio"]["high"]
    assert report["checks"]["incremental returns at least 1.3 of the better rival's"]
    assert not summarize(trials(14, 5, 12), {})["checks"]["incremental returns at least 1.3 of the better rival's"]


def test_intervals_that_always_cover_are_too_wide() -> None:
    assert not summarize(trials(14, 10, 5), {})["checks"]["intervals cover the truth in 93 to 97 %"]


def test_harm_to_active_users_is_seen() -> None:
    assert summarize(trials(14, 10, 5), {})["checks"]["active users are not harmed"]
    assert not summarize(trials(14, 10, 5, active=9.0), {})["checks"]["active users are not harmed"]


def test_a_claim_where_nothing_is_true_is_counted() -> None:
    null = {
        seed: {LONGTAIL: lived(0, intervals=[interval(0, 0.01, 0.2, "positive" if seed < 3 else "not_shown")])}
        for seed in range(20)
    }
    report = summarize({}, null)
    assert report["null_intervals"]["claims"] == pytest.approx(0.15)
    assert report["null_intervals"]["coverage"] == 0
    assert not report["checks"]["at most 5 % claims where a contact does nothing"]


def test_what_is_not_told_covers_nothing_and_claims_nothing() -> None:
    null = {seed: {LONGTAIL: lived(0, intervals=[interval(0, None, None, "too_few")])} for seed in range(5)}
    found = summarize({}, null)["null_intervals"]
    assert (found["campaigns"], found["told"], found["coverage"], found["claims"]) == (5, 0, None, 0.0)


def test_one_broken_rule_is_one_too_many() -> None:
    found = trials(14, 10, 5)
    found[3][POPULARITY].broken_rules = ["user 7: too soon"]
    assert not summarize(found, {})["checks"]["no rule broken"]
