from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, optimize, special

from feature_repo.tables.bgnbd import BgNbd, fit, gradient, log_likelihood

MODEL = BgNbd(r=0.6, alpha=8.0, a=0.8, b=2.5)
USERS = [(0.0, 0.0, 30.0), (1.0, 5.0, 30.0), (4.0, 28.0, 30.0), (4.0, 6.0, 60.0), (20.0, 50.0, 60.0)]


def simulate(model: BgNbd, users: int, age: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, t_x, visits in the 30 days after `age`) of users who all started at 0, drawn from the model's story."""
    rng = np.random.default_rng(seed)
    x, t_x, later = np.zeros(users), np.zeros(users), np.zeros(users)
    for user in range(users):
        rate, loss = rng.gamma(model.r, 1 / model.alpha), rng.beta(model.a, model.b)
        now = 0.0
        while True:
            now += rng.exponential(1 / rate)
            if now > age + 30:
                break
            if now <= age:
                x[user] += 1
                t_x[user] = now
            else:
                later[user] += 1
            if rng.random() < loss:
                break
    return x, t_x, later


def posterior(model: BgNbd, x: float, t_x: float, age: float) -> tuple[float, float]:
    """(likelihood, P(alive)) by integrating over λ and p, from the story and no closed form."""

    def weight(rate: float, loss: float, *, alive: bool) -> float:
        gamma = model.alpha**model.r * rate ** (model.r - 1) * math.exp(-model.alpha * rate) / math.gamma(model.r)
        beta = loss ** (model.a - 1) * (1 - loss) ** (model.b - 1) / special.beta(model.a, model.b)
        prior = gamma * beta
        visits = rate**x * (1 - loss) ** (x - 1 if x else 0)
        if alive:
            return float(prior * visits * ((1 - loss) if x else 1) * math.exp(-rate * age))
        return float(prior * visits * loss * math.exp(-rate * t_x)) if x else 0.0

    def total(alive: bool) -> float:
        value, _ = integrate.dblquad(
            lambda u, loss: weight(u**2, loss, alive=alive) * 2 * u, 0, 1, 0, 3, epsabs=1e-12, epsrel=1e-7
        )
        return float(value)

    alive, lost = total(True), total(False)
    return alive + lost, alive / (alive + lost)


@pytest.mark.parametrize("user", USERS[:4])
def test_p_alive_and_likelihood_equal_the_integral_over_all_rates_and_losses(
    user: tuple[float, float, float],
) -> None:
    likelihood, p_alive = posterior(MODEL, *user)
    x, t_x, age = (np.array([value]) for value in user)
    assert MODEL.p_alive(x, t_x, age)[0] == pytest.approx(p_alive, rel=1e-4)
    parameters = np.array([MODEL.r, MODEL.alpha, MODEL.a, MODEL.b])
    assert np.exp(log_likelihood(parameters, x, t_x, age)[0]) == pytest.approx(likelihood, rel=1e-4)


def test_expected_visits_equal_those_of_simulated_users() -> None:
    x, t_x, later = simulate(MODEL, users=40_000, age=60.0, seed=1)
    expected = MODEL.expected_visits(30.0, x, t_x, np.full_like(x, 60.0))
    for group in (x == 0, (x > 0) & (x <= 3), x > 3):
        error = later[group].std() / np.sqrt(group.sum())
        assert abs(later[group].mean() - expected[group].mean()) < 4 * error


def test_expected_visits_are_smooth_through_a_equal_one() -> None:
    x, t_x, age = np.array([3.0]), np.array([20.0]), np.array([40.0])
    around = [BgNbd(r=0.6, alpha=8.0, a=a, b=2.5).expected_visits(30.0, x, t_x, age)[0] for a in (0.99, 1.0, 1.01)]
    assert around[1] == pytest.approx((around[0] + around[2]) / 2, rel=1e-4)


def test_the_fit_finds_the_parameters_that_made_the_data() -> None:
    x, t_x, _ = simulate(MODEL, users=20_000, age=120.0, seed=2)
    found = fit(x, t_x, np.full_like(x, 120.0))
    assert found is not None
    assert found.r == pytest.approx(MODEL.r, rel=0.15)
    assert found.alpha == pytest.approx(MODEL.alpha, rel=0.2)
    assert found.a / (found.a + found.b) == pytest.approx(MODEL.a / (MODEL.a + MODEL.b), rel=0.2)


def test_weights_stand_for_equal_users() -> None:
    x, t_x, _ = simulate(MODEL, users=300, age=60.0, seed=3)
    age = np.full_like(x, 60.0)
    repeated = fit(np.repeat(x, 3), np.repeat(t_x, 3), np.repeat(age, 3))
    weighted = fit(x, t_x, age, np.full_like(x, 3.0))
    assert repeated is not None and weighted is not None
    assert weighted.r == pytest.approx(repeated.r, rel=1e-3)


@pytest.mark.parametrize("users", [0, 1, 5000])
def test_users_who_all_came_once_tell_nothing(users: int, caplog: pytest.LogCaptureFixture) -> None:
    zeros = np.zeros(users)
    assert fit(zeros, zeros, np.full(users, 10.0)) is None
    assert "P(alive) stays missing" in caplog.text


def test_a_user_of_a_thousand_days_long_gone_gives_no_overflow() -> None:
    x, t_x, age = np.array([1000.0]), np.array([1000.0]), np.array([5000.0])
    assert MODEL.p_alive(x, t_x, age)[0] == pytest.approx(0.0)
    assert np.isfinite(MODEL.expected_visits(30.0, x, t_x, age)).all()


@pytest.mark.parametrize("parameters", [(0.3, 4.0, 0.8, 2.0), (2.0, 50.0, 3.0, 0.5)])
def test_the_gradient_is_the_likelihoods(parameters: tuple[float, ...]) -> None:
    x, t_x, age = (np.array(each) for each in zip(*USERS, strict=True))

    def likelihood(given: np.ndarray) -> float:
        return float(log_likelihood(given, x, t_x, age).sum())

    expected = optimize.approx_fprime(np.array(parameters), likelihood, 1e-7)
    np.testing.assert_allclose(gradient(np.array(parameters), x, t_x, age).sum(axis=1), expected, rtol=1e-4)
