"""What a contact is worth, for many users at once: pure.

With an uplift model:       effect = p(return | contact) − p(return | none)
Before there are data:      effect = assumed_effect · P(alive) · (1 − p(return | none))

A contact can bring back only who is still there, and adds nothing for who comes anyway. The channel's `response` scales
it. Where p(return | none) is not known it is 1 − exp(−expected visits within the horizon), by BG/NBD; where nothing is
known of a user, P(alive) and p(return | none) are both taken as one half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from serving.gateway.domain import Floats
from serving.gateway.policy.document import Policy

UNKNOWN: Final = 0.5
EXPECTED_DAYS: Final = 30.0  # of the feature expected_events_30d
UPLIFT_MODEL: Final = "uplift_model"
ASSUMED: Final = "assumed"


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is known of n users; NaN where it is not."""

    p_alive: Floats  # [n]
    expected_events_30d: Floats  # [n]
    p_return: Floats  # [n]
    p_return_contacted: Floats  # [n]
    horizon_days: Floats  # [n]


@dataclass(frozen=True, kw_only=True)
class Worth:
    """Of each user, before the channel's response."""

    effect: Floats  # [n]
    is_measured: np.ndarray  # bool [n]

    def basis(self, place: int) -> str:
        return UPLIFT_MODEL if self.is_measured[place] else ASSUMED


def worth(outlook: Outlook, *, assumed_effect: float) -> Worth:
    expected = outlook.expected_events_30d * outlook.horizon_days / EXPECTED_DAYS
    base = _known(outlook.p_return, 1.0 - np.exp(-expected), UNKNOWN)
    alive = _known(outlook.p_alive, UNKNOWN)
    measured = outlook.p_return_contacted - outlook.p_return
    is_measured = np.isfinite(measured)
    assumed = assumed_effect * alive * (1.0 - base)
    return Worth(effect=np.where(is_measured, measured, assumed), is_measured=is_measured)


def best_first(worth: Worth) -> np.ndarray:
    """Places of users by effect, without those whom a contact would keep away; ties stay in their order."""
    order = np.argsort(-worth.effect, kind="stable")
    return order[worth.effect[order] > 0]


def channels_by_value(policy: Policy, channels: tuple[str, ...], *, by_cost: bool) -> list[str]:
    """The channels, best first: by response, or where cost counts by response for the money."""

    def value(name: str) -> float:
        section = policy.channels[name]
        return section.response / section.cost if by_cost else section.response

    return sorted(channels, key=lambda name: (-value(name), name))


def _known(first: Floats, *others: Floats | float) -> Floats:
    """The first that is a number."""
    known = first
    for other in others:
        known = np.where(np.isfinite(known), known, other)
    return known
