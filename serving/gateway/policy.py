"""The order of the items: pure. No clock, no random, no logging; the same question gets the same answer.

value = relevance^w_r × novelty^(w_n × tail_percentile of the user) × fatigue^w_f × diversity^w_d

- fatigue = 1 / (1 + exposures), each exposure without engagement counting less the longer ago it was.
- diversity is the share of an item that those placed before it leave unexplained: the greedy solution of a
  determinantal point process whose items have correlation ρ within a category and none across. With n of the
  category placed before, its square is 1 − ρ² n / (1 + (n − 1) ρ).

`exploration` then gives some of the last positions to items beyond the list.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from serving.gateway.domain import Floats, Scored, Term
from serving.gateway.exploration import Exploration, Position, explore

SMALLEST_TERM: Final = 1e-6  # a term of 0 would hide the others
NO_CATEGORY: Final = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighting:
    """What an item's value is made of for this user."""

    relevance: float
    novelty: float  # the policy's weight × the user's tail percentile
    relevance_floor: float
    fatigue: float = 0.0
    diversity: float = 0.0
    category_correlation: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Slate:
    """Positions, best first, and how many candidates are in none of them."""

    positions: tuple[Position, ...]
    below_floor: int
    below_limit: int


def arrange(scored: Scored, *, weighting: Weighting, limit: int, exploration: Exploration | None) -> Slate:
    """Orders the candidates by value, then lets exploration have its share. Ties go by item id."""
    values = value_of(scored, weighting)  # [candidates], diversity aside
    above = np.flatnonzero(scored.relevance >= weighting.relevance_floor)
    order = _best_first(values, above, scored)
    shown, rest = _spread(order, values, scored, weighting, limit)
    if exploration is not None:
        shown = explore(shown, rest(exploration.pool), values, scored, exploration)
    return Slate(
        positions=tuple(shown),
        below_floor=len(scored.candidates) - len(order),
        below_limit=len(order) - len(shown),
    )


def _best_first(values: Floats, above: npt.NDArray[np.intp], scored: Scored) -> list[int]:
    """The candidates `above`, by value, ties by item id. Ids are looked at only where values are equal."""
    order = above[np.argsort(-values[above], kind="stable")]
    ordered = values[order]
    if (ordered[1:] == ordered[:-1]).any():
        item_ids = scored.candidates.item_ids
        return sorted(above.tolist(), key=lambda place: (-values[place], item_ids[place]))
    best: list[int] = order.tolist()
    return best


class _Rest:
    """The candidates that are in no position, best first."""

    def __init__(self, order: list[int], shown: list[Position]) -> None:
        self._order = order
        self._shown = {position.candidate for position in shown}

    def __call__(self, count: int) -> list[int]:
        reach = self._order[: len(self._shown) + count]
        if len(reach) < len(self._order) and not self._shown.issubset(reach):
            reach = self._order
        return [candidate for candidate in reach if candidate not in self._shown][:count]


def _spread(
    order: list[int], values: Floats, scored: Scored, weighting: Weighting, limit: int
) -> tuple[list[Position], _Rest]:
    """The first `limit` positions, greedily by value × diversity. One line per category, so that heads compare."""
    if weighting.diversity == 0 or weighting.category_correlation == 0:
        shown = [Position(candidate=candidate, value=float(values[candidate])) for candidate in order[:limit]]
        return shown, _Rest(order, shown)
    lines: defaultdict[int, list[int]] = defaultdict(list)
    categories: list[int] = scored.categories.tolist()
    for place, candidate in enumerate(order):
        lines[categories[candidate]].append(place)
    value: list[float] = values[order].tolist()
    heads = [(-value[line[0]], line[0], category, 0) for category, line in lines.items()]
    heapq.heapify(heads)
    factors, shown = [1.0], []
    while heads and len(shown) < limit:
        negative, place, category, before = heapq.heappop(heads)
        placed = 0 if category == NO_CATEGORY else before
        shown.append(Position(candidate=order[place], value=-negative, diversity=diversity_after(placed, weighting)))
        if before + 1 < len(lines[category]):
            if len(factors) <= before + 1:
                factors.append(diversity_after(before + 1, weighting) ** weighting.diversity)
            following = lines[category][before + 1]
            factor = 1.0 if category == NO_CATEGORY else factors[before + 1]
            heapq.heappush(heads, (-value[following] * factor, following, category, before + 1))
    return shown, _Rest(order, shown)


def diversity_after(placed: int, weighting: Weighting) -> float:
    """
    >>> [round(diversity_after(n, Weighting(relevance=1, novelty=0, relevance_floor=0)), 3) for n in (0, 1, 2)]
    [1.0, 0.866, 0.816]
    """
    rho = weighting.category_correlation
    explained = rho * rho * placed / (1 + (placed - 1) * rho) if placed else 0.0
    return float((1 - explained) ** 0.5)


def value_of(scored: Scored, weighting: Weighting) -> Floats:
    """Without the term of diversity, which depends on what else is shown."""
    value: Floats = _term(scored.relevance) ** weighting.relevance
    value = value * _term(scored.novelty) ** weighting.novelty
    if weighting.fatigue and scored.exposures.any():
        value = value * fatigue_of(scored.exposures) ** weighting.fatigue
    return value


def fatigue_of(exposures: Floats) -> Floats:
    return 1.0 / (1.0 + np.asarray(exposures, np.float64))


def terms_of(scored: Scored, position: Position, weighting: Weighting) -> tuple[Term, ...]:
    """The factors of the value, in words."""
    place = position.candidate
    relevance_text = (
        "what item statistics say, for want of a model's answer"
        if scored.is_prior
        else "probability, by the model, that the user engages"
    )
    values = (
        ("relevance", _term(scored.relevance[place]), weighting.relevance, relevance_text),
        (
            "novelty",
            _term(scored.novelty[place]),
            weighting.novelty,
            "how few users know the item; counts more the less active the user",
        ),
        (
            "fatigue",
            fatigue_of(scored.exposures[place]),
            weighting.fatigue,
            "falls with each time the user was shown the item and did not care; recovers with time",
        ),
        (
            "diversity",
            position.diversity,
            weighting.diversity,
            "falls with each item of the same category further up",
        ),
    )
    return tuple(Term(name=name, value=float(value), weight=weight, text=text) for name, value, weight, text in values)


def _term(value: Floats | float) -> Floats:
    return np.minimum(np.maximum(value, SMALLEST_TERM), 1.0)  # np.clip, without its detours
