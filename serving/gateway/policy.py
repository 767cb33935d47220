"""The order of the items: pure. No clock, no random, no logging; the same question gets the same answer.

value = relevance^w_relevance × novelty^(w_novelty × tail_percentile of the user)

Exploration gives some of the last positions to items beyond the list. Each such position has items of its own to
draw from, so that positions are independent and an item's propensity at its rank is exact:
ε / (items of the position) where it was drawn, 1 − ε where the position kept its item, 1 elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from serving.gateway.domain import Floats, ItemId, Term

SMALLEST_TERM: Final = 1e-6  # a term of 0 would hide the others


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighting:
    """What an item's value is made of for this user."""

    relevance: float
    novelty: float  # the policy's weight × the user's tail percentile
    relevance_floor: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Exploration:
    """`seed` names experiment, user and UTC day: all that a draw depends on, with item and position."""

    seed: str
    rate: float
    slots: int
    pool: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """One place of the answer; `candidate` is an index."""

    candidate: int
    value: float
    propensity: float = 1.0
    is_exploration: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Slate:
    """Positions, best first, and how many candidates are in none of them."""

    positions: tuple[Position, ...]
    below_floor: int
    below_limit: int


def arrange(
    *,
    item_ids: Sequence[ItemId],
    relevance: Floats,
    novelty: Floats,
    weighting: Weighting,
    limit: int,
    exploration: Exploration | None,
) -> Slate:
    """Orders the candidates by value, then lets exploration have its share. Ties go by item id."""
    values = value_of(relevance, novelty, weighting)  # [candidates]
    above = np.flatnonzero(relevance >= weighting.relevance_floor)
    order = _best_first(values, above, item_ids)
    reach = limit + (exploration.pool if exploration is not None else 0)
    positions = [Position(candidate=candidate, value=float(values[candidate])) for candidate in order[:reach]]
    shown, beyond = positions[:limit], positions[limit:]
    if exploration is not None:
        shown = explore(shown, beyond, item_ids, exploration)
    return Slate(
        positions=tuple(shown),
        below_floor=len(item_ids) - len(order),
        below_limit=len(order) - len(shown),
    )


def _best_first(values: Floats, above: npt.NDArray[np.intp], item_ids: Sequence[ItemId]) -> list[int]:
    """The candidates `above`, by value, ties by item id. Ids are looked at only where values are equal."""
    order = above[np.argsort(-values[above], kind="stable")]
    ordered = values[order]
    if (ordered[1:] == ordered[:-1]).any():
        return sorted(above.tolist(), key=lambda candidate: (-values[candidate], item_ids[candidate]))
    best: list[int] = order.tolist()
    return best


def value_of(relevance: Floats, novelty: Floats, weighting: Weighting) -> Floats:
    """
    >>> value_of(np.array([0.5, 0.5]), np.array([1.0, 0.25]), Weighting(relevance=1, novelty=0.5, relevance_floor=0))
    array([0.5 , 0.25])
    """
    value: Floats = _term(relevance) ** weighting.relevance * _term(novelty) ** weighting.novelty
    return value


def terms_of(relevance: float, novelty: float, weighting: Weighting, *, is_prior: bool) -> tuple[Term, ...]:
    """The factors of the value, in words."""
    relevance_text = (
        "what item statistics say, for want of a model's answer"
        if is_prior
        else "probability, by the model, that the user engages"
    )
    return (
        Term(name="relevance", value=float(_term(relevance)), weight=weighting.relevance, text=relevance_text),
        Term(
            name="novelty",
            value=float(_term(novelty)),
            weight=weighting.novelty,
            text="how few users know the item; counts more the less active the user",
        ),
    )


def explore(
    shown: list[Position], beyond: list[Position], item_ids: Sequence[ItemId], exploration: Exploration
) -> list[Position]:
    """Gives each of the last positions, with probability `rate`, to one of the items that follow the list."""
    slots = min(exploration.slots, len(shown) // 2)
    pool = beyond[: exploration.pool]
    first = len(shown) - slots
    explored = list(shown)
    for slot in range(slots):
        drawable = pool[slot::slots]
        if drawable and exploration.rate > 0:
            explored[first + slot] = _draw(shown[first + slot], drawable, slot, item_ids, exploration)
    return explored


def _draw(
    own: Position, drawable: list[Position], slot: int, item_ids: Sequence[ItemId], exploration: Exploration
) -> Position:
    if _uniform(exploration.seed, "slot", str(slot)) >= exploration.rate:
        return _placed(own, propensity=1 - exploration.rate, is_exploration=False)
    drawn = max(drawable, key=lambda position: _uniform(exploration.seed, "item", item_ids[position.candidate]))
    return _placed(drawn, propensity=exploration.rate / len(drawable), is_exploration=True)


def _placed(position: Position, *, propensity: float, is_exploration: bool) -> Position:
    return Position(
        candidate=position.candidate, value=position.value, propensity=propensity, is_exploration=is_exploration
    )


def _uniform(*parts: str) -> float:
    """A number in [0, 1) that only these words decide."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        word = part.encode()
        digest.update(len(word).to_bytes(4, "big") + word)
    return (int.from_bytes(digest.digest(), "big") >> 11) / 2**53


def _term(value: Floats | float) -> Floats:
    return np.clip(np.asarray(value, np.float64), SMALLEST_TERM, 1.0)
