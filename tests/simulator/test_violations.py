"""Rules are counted anew from what was sent."""

from __future__ import annotations

import pytest

from feature_repo.lifecycle import Lifecycle
from serving.gateway.policy.document import Policy
from simulator.violations import DAY_S, Sent, violations


def sent(*days: float, state: Lifecycle = Lifecycle.CASUAL, user: int = 1) -> list[Sent]:
    return [Sent(user=user, channel="push", at_unix_s=day * DAY_S, state=state) for day in days]


@pytest.mark.parametrize(
    ("days", "rule"),
    [
        ((0, 1), "too soon"),
        ((0, 0.5), "over 1 in 1 days"),
        ((0, 2.5, 5), "over 2 in 7 days"),
        ((0, 5, 10, 15, 20, 25, 29), "over 6 in 30 days"),
    ],
)
def test_a_contact_too_many_is_found(days: tuple[float, ...], rule: str) -> None:
    assert any(rule in found for found in violations(sent(*days), {}, Policy()))


def test_what_the_caps_allow_is_no_violation() -> None:
    assert not violations(sent(0, 7, 14, 21, 28) + sent(0, 7, user=2), {}, Policy())


def test_a_stricter_state_counts() -> None:
    assert violations(sent(0, 7, 14, 21, state=Lifecycle.DORMANT), {}, Policy()) == ["user 1: over 3 in 30 days"]


def test_nobody_is_contacted_after_opting_out() -> None:
    assert not violations(sent(3), {1: 3 * DAY_S}, Policy())
    assert violations(sent(0, 7), {1: 3 * DAY_S}, Policy()) == ["user 1: contacted after opting out"]
