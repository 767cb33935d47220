"""Off-policy evaluation: equal to obp, right on average, with intervals that cover, and refused without support."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from outcomes.errors import OutcomeError
from outcomes.off_policy import Evaluation, Rounds, Support, evaluate

# What obp 0.4.1 answers for the rounds of `worked`: outcomes/open_bandit.py's program, given the same arrays.
OBP = {"IPS": 0.3019444444444444, "SNIPS": 0.25, "DM": 0.25333333333333335, "DR": 0.26805555555555555}

RATE = np.array([0.05, 0.1, 0.3, 0.6])  # of each item
LOGGING = np.array([0.4, 0.3, 0.2, 0.1])
OTHER = np.array([0.1, 0.2, 0.3, 0.4])


def worked() -> Rounds:
    """Rounds that can be written down: 5 items, 3 places."""
    t = np.arange(600)
    item, place = (t * 7) % 5, (t // 5) % 3
    policy = np.array([[0.5, 0.2, 0.1, 0.1, 0.1], [0.2] * 5, [0, 0.25, 0.25, 0.25, 0.25]])
    model = np.array([[0.1, 0.2, 0.3, 0.4, 0.5], [0.3] * 5, [0.5, 0.4, 0.3, 0.2, 0.1]])
    return Rounds(
        reward=((t * 13 + item) % 4 == 0).astype(np.float64),
        propensity=np.asarray(0.1 + 0.05 * item, np.float64),
        target=policy[place, item],
        cluster=t,
        expected_logged=model[place, item],
        expected_target=(policy * model).sum(1)[place],
    )


def draw(seed: int, rounds: int = 4000, per_cluster: int = 1) -> Rounds:
    """A log of LOGGING; every round of a cluster is the same one, which is as dependent as can be."""
    rng = np.random.default_rng(seed)
    item = np.repeat(rng.choice(4, rounds // per_cluster, p=LOGGING), per_cluster)
    reward = np.repeat((rng.random(rounds // per_cluster) < RATE[item[::per_cluster]]).astype(float), per_cluster)
    return Rounds(
        reward=reward,
        propensity=LOGGING[item],
        target=OTHER[item],
        cluster=np.repeat(np.arange(rounds // per_cluster), per_cluster),
        expected_logged=np.full(rounds, 0.2),
        expected_target=np.full(rounds, 0.2),
    )


def test_each_estimator_equals_the_obp_library() -> None:
    found = evaluate(worked(), support=Support(most_weight_drift=1.0))
    assert {name: one.value for name, one in found.estimates.items()} == pytest.approx(OBP, abs=1e-9)


def covers(found: Evaluation, name: str, truth: float) -> bool:
    estimate = found.estimates[name]
    assert estimate.low is not None and estimate.high is not None
    return estimate.low <= truth <= estimate.high


@pytest.mark.parametrize("per_cluster", [1, 4])
def test_intervals_cover_the_truth_as_often_as_they_say(per_cluster: int) -> None:
    truth = float(OTHER @ RATE)
    runs = [evaluate(draw(seed, 2000, per_cluster)) for seed in range(300)]
    for name in ("IPS", "SNIPS", "DR"):
        assert 0.91 <= np.mean([covers(run, name, truth) for run in runs]) <= 0.985, name


def test_the_bootstrap_agrees_with_the_normal_interval() -> None:
    normal, drawn = evaluate(draw(1)), evaluate(draw(1), bootstrap=1000)
    for name in ("IPS", "SNIPS", "DR"):
        one, other = normal.estimates[name], drawn.estimates[name]
        assert one.low is not None and other.low is not None and one.standard_error is not None
        assert abs(one.low - other.low) < 0.25 * one.standard_error


def test_the_logged_policy_evaluates_to_what_it_earned() -> None:
    rounds = draw(2)
    found = evaluate(replace(rounds, target=rounds.propensity))
    assert found.effective_sample_size == pytest.approx(len(rounds.reward))
    assert found.estimates["IPS"].value == found.logged.value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"propensity": np.array([0.5, 0.0, 0.5])}, r"propensity is .*0\.0.* in 1 of 3 rounds.*\(0, 1\]"),
        ({"propensity": np.array([0.5, 1.5, np.nan])}, r"in 2 of 3 rounds"),
        ({"target": np.array([0.5, -0.1, 0.5])}, r"target is .*\[0, 1\]"),
        ({"reward": np.array([np.inf, 0.0, 0.0])}, "reward is not a finite number"),
        ({"unsupported_mass": np.full(3, 0.25)}, "25.0% of what the policy would show was never shown"),
        ({}, r"effective sample size is 3 of 3 rounds \(at least 100 is needed\)"),
        ({"target": np.zeros(3)}, "effective sample size is 0"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_the_reason(change: dict[str, np.ndarray], said: str) -> None:
    half = np.full(3, 0.5)
    rounds = Rounds(reward=np.ones(3), propensity=half, target=half, cluster=np.arange(3))
    with pytest.raises(OutcomeError, match=said):
        evaluate(replace(rounds, **change))


def test_a_policy_that_leaves_the_support_is_noticed_by_its_weights() -> None:
    """The log never shows item 3, which the other policy shows four times in ten; the weights average 0.6."""
    rng = np.random.default_rng(0)
    item = rng.integers(0, 3, 4000)
    rounds = Rounds(reward=np.zeros(4000), propensity=np.full(4000, 1 / 3), target=OTHER[item], cluster=np.arange(4000))
    with pytest.raises(OutcomeError, match=r"weights average 0\.6"):
        evaluate(rounds)


def test_an_empty_log_is_refused() -> None:
    nothing = np.empty(0)
    with pytest.raises(OutcomeError, match="no round"):
        evaluate(Rounds(reward=nothing, propensity=nothing, target=nothing, cluster=np.empty(0, np.int64)))
