"""Bounded exploration with exact propensities: pure.

Each of the last k positions, at most half of the list, may with probability ε go to an item of its own part of those
that follow the list. Parts are disjoint, so that positions are independent. Within a part the item is drawn by

q_i = (1 − floor) × P(i has the highest rate) + floor / items of the part

where P is the share of 64 fixed joint draws of the items' rates, each about normal around its smoothed mean, in which
item i comes first: Thompson's choice, with a floor. As q itself is what is drawn from, the propensity is exact:
ε × q_i where drawn, 1 − ε where the position kept its item, 1 elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Final

import numpy as np

from serving.gateway.domain import Floats, Scored
from serving.gateway.policy.draws import uniform

DRAWS: Final = 64
UNKNOWN_RATE: Final = 0.5  # when nobody was ever shown anything


@dataclass(frozen=True, kw_only=True, slots=True)
class Exploration:
    """`seed` names salt, arms, user and UTC day: all that a draw depends on, with the position."""

    seed: str
    rate: float
    slots: int
    pool: int
    floor: float = 1.0
    prior_trials: float = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """One place of the answer; `candidate` is an index."""

    candidate: int
    value: float
    diversity: float = 1.0
    propensity: float = 1.0
    is_exploration: bool = False
    counts_novelty: bool = True


def explore(
    shown: list[Position],
    beyond: Sequence[int],
    values: tuple[Floats, Floats],
    scored: Scored,
    exploration: Exploration,
) -> list[Position]:
    """Gives each of the last positions, with probability `rate`, to one of the items that follow the list.

    `beyond` are those candidates; `values` [candidates] are of all, without novelty and with it.
    """
    slots = min(exploration.slots, len(shown) // 2)
    pool = beyond[: exploration.pool]
    first = len(shown) - slots
    explored = list(shown)
    for slot in range(slots):
        drawable = pool[slot::slots]
        if drawable and exploration.rate > 0:
            kept = shown[first + slot]
            drawn = _draw(drawable, slot, scored, exploration)
            explored[first + slot] = (
                replace(kept, propensity=1 - exploration.rate)
                if drawn is None
                else Position(
                    candidate=drawn[0],
                    value=float(values[kept.counts_novelty][drawn[0]]),
                    propensity=drawn[1],
                    is_exploration=True,
                    counts_novelty=kept.counts_novelty,
                )
            )
    return explored


def _draw(drawable: Sequence[int], slot: int, scored: Scored, exploration: Exploration) -> tuple[int, float] | None:
    """The candidate drawn for the slot, with its propensity; None where the slot keeps its own."""
    if uniform(exploration.seed, "slot", str(slot)) >= exploration.rate:
        return None
    places = list(drawable)
    chances = choice_probabilities(scored.rates[places], scored.trials[places], exploration)  # [drawable]
    ends = np.cumsum(chances)
    target = uniform(exploration.seed, "item", str(slot)) * ends[-1]
    drawn = int(min(np.searchsorted(ends, target, side="right"), len(places) - 1))
    return places[drawn], exploration.rate * float(chances[drawn])


def choice_probabilities(rates: Floats, trials: Floats, exploration: Exploration) -> Floats:
    """How likely each item is to be drawn; they sum to 1 and none is below floor / items."""
    count = len(rates)
    if exploration.floor >= 1:
        return np.full(count, 1.0 / count)
    mean = np.where(np.isnan(rates), UNKNOWN_RATE, np.clip(rates, 0.0, 1.0))  # [items]
    spread = np.sqrt(mean * (1 - mean) / (trials + exploration.prior_trials + 1))
    best = np.argmax(mean + spread * _normals(count), axis=1)  # [draws]
    shares: Floats = np.bincount(best, minlength=count) / DRAWS
    return (1 - exploration.floor) * shares + exploration.floor / count


@lru_cache(maxsize=64)
def _normals(count: int) -> Floats:
    """Normal scores [draws, count]; each column has the same values in an order of its own, by a Kronecker sequence."""
    places = np.arange(DRAWS)
    scores = np.array([NormalDist().inv_cdf((place + 0.5) / DRAWS) for place in places])
    steps = (np.sqrt(_primes(count)) % 1.0)[:, None]  # [count, 1]
    order = np.argsort((places[None, :] + 1) * steps % 1.0, axis=1)  # [count, draws]
    columns: Floats = scores[order].T
    return columns


def _primes(count: int) -> Floats:
    """
    >>> _primes(5).tolist()
    [2.0, 3.0, 5.0, 7.0, 11.0]
    """
    found: list[int] = []
    number = 2
    while len(found) < count:
        if all(number % prime for prime in found if prime * prime <= number):
            found.append(number)
        number += 1
    return np.array(found, np.float64)
