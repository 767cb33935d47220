"""The comparison's intervals hold what they promise, in worlds whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from outcomes.comparison import Comparison, always_valid_width, compare, sample_ratio_p


def world(rng: np.random.Generator, users: int, *, effect: float, share: float) -> tuple[np.ndarray, ...]:
    """Outcome, what was known before, who was treated, and with which probability."""
    before = rng.poisson(2.0, users).astype(float)
    base = np.clip(0.1 + 0.1 * before, 0, 0.8)
    treated = rng.random(users) < share
    outcome = (rng.random(users) < base + effect * treated).astype(float)
    return outcome, before, treated, np.full(users, share)


def looked_at(rng: np.random.Generator, *, effect: float = 0.0) -> Comparison:
    outcome, before, treated, share = world(rng, 2000, effect=effect, share=0.8)
    return compare(outcome, before, treated, share, confidence=0.95)


def test_the_interval_of_one_look_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for effect in (0.0, 0.08):
        found = [looked_at(rng, effect=effect) for _ in range(600)]
        covered = np.mean([one.effect.low <= effect <= one.effect.high for one in found])  # type: ignore[operator]
        assert 0.93 <= covered <= 0.97
        assert np.mean([one.effect.value for one in found]) == pytest.approx(effect, abs=0.003)


def test_a_null_world_claims_nothing_however_often_one_looks() -> None:
    rng = np.random.default_rng(1)
    claims = peeks = 0
    for _ in range(300):
        outcome, before, treated, share = world(rng, 2000, effect=0.0, share=0.5)
        looks = [
            compare(outcome[:size], before[:size], treated[:size], share[:size], confidence=0.95)
            for size in range(200, 2001, 200)
        ]
        claims += any(one.verdict in ("positive", "negative") for one in looks)
        peeks += any(one.effect.excludes_zero for one in looks)
    assert claims / 300 <= 0.05
    assert peeks / 300 > 0.1, "what the interval for one look would have claimed"


def test_an_effect_is_found_and_the_covariate_makes_it_sharper() -> None:
    rng = np.random.default_rng(2)
    outcome, before, treated, share = world(rng, 20_000, effect=0.08, share=0.8)
    with_before = compare(outcome, before, treated, share, confidence=0.95)
    without = compare(outcome, np.zeros_like(before), treated, share, confidence=0.95)
    assert with_before.verdict == "positive"
    assert with_before.effect.standard_error < 0.98 * without.effect.standard_error  # type: ignore[operator]


def test_arms_of_other_sizes_than_were_drawn_are_told() -> None:
    rng = np.random.default_rng(3)
    outcome, before, treated, share = world(rng, 5000, effect=0.5, share=0.8)
    lost = treated & (rng.random(5000) < 0.2)
    kept = ~lost
    found = compare(outcome[kept], before[kept], treated[kept], share[kept], confidence=0.95)
    assert found.verdict == "mismatch"
    assert sample_ratio_p(np.ones(4, bool), np.ones(4)) is None
    honest = [sample_ratio_p(rng.random(500) < 0.9, np.full(500, 0.9)) for _ in range(400)]
    assert np.mean([p < 0.05 for p in honest if p is not None]) < 0.09


@pytest.mark.parametrize(("treated", "held_out"), [(0, 100), (100, 0), (100, 3), (0, 0)])
def test_too_few_users_tell_nothing(treated: int, held_out: int) -> None:
    users = treated + held_out
    is_treated = np.arange(users) < treated
    found = compare(np.ones(users), np.zeros(users), is_treated, np.full(users, 0.5), confidence=0.95)
    assert found.effect.value is None
    assert found.verdict in ("too_few", "mismatch")


@pytest.mark.parametrize("rate", [0.01, 0.03, 0.1])
def test_few_returns_tell_nothing_rather_than_too_much(rate: float) -> None:
    """Where nothing has an effect, of logs of 200 users: an arm without a return would seem certain of it."""
    rng = np.random.default_rng(5)
    users, share = 200, 0.75
    told = []
    for _ in range(400):
        outcome = (rng.random(users) < rate).astype(float)
        treated = rng.random(users) < share
        found = compare(outcome, np.zeros(users), treated, np.full(users, share), confidence=0.95)
        if found.effect.low is not None and found.effect.high is not None:
            told.append(found.effect.low <= 0 <= found.effect.high)
    assert not told or np.mean(told) > 0.91
    assert bool(told) == (rate >= 0.1)


def test_more_users_narrow_what_holds_at_every_look() -> None:
    widths = [always_valid_width(users, 0.05) for users in (100, 1000, 10_000, 1_000_000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[1] * np.sqrt(1000) < 3.2, "at its tightest well under twice the width of one look"
