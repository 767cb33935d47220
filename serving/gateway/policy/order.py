"""The order of the items: pure. No clock, no random, no logging; the same question gets the same answer.

value = relevance^w_r × novelty^(w_n × tail_percentile of the user) × fatigue^w_f × diversity^w_d

- novelty counts in the last places of the list alone, `novelty_share` of them: what stands first is looked at most.
- fatigue = 1 / (1 + exposures), each exposure without engagement counting less the longer ago it was.
- diversity is the share of an item that those placed before it leave unexplained: the greedy solution of a
  determinantal point process whose items have correlation ρ within a category and none across. With n of the
  category placed before, its square is 1 − ρ² n / (1 + (n − 1) ρ).

`exploration` then gives some of the last positions to items beyond the list.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from serving.gateway.domain import Floats, Scored, Term
from serving.gateway.policy.exploration import Exploration, Position, explore

SMALLEST_TERM: Final = 1e-6  # a term of 0 would hide the others
NO_CATEGORY: Final = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighting:
    """What an item's value is made of for this user."""

    relevance: float
    novelty: float  # the policy's weight × the user's tail percentile
    relevance_floor: float
    novelty_share: float = 1.0  # of the places, the last: where novelty counts
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
    limit = min(limit, len(order))
    first = places_without_novelty(limit, weighting)
    plain, shown = values, list[Position]()
    if first:
        plain = value_of(scored, weighting, counts_novelty=False)
        shown = _spread(_best_first(plain, above, scored), plain, scored, weighting, first, counts_novelty=False)
    shown += _spread(_others(order, shown), values, scored, weighting, limit - first, after=shown)
    if exploration is not None:
        beyond = list(islice(_others(order, shown), exploration.pool))
        shown = explore(shown, beyond, (plain, values), scored, exploration)
    return Slate(
        positions=tuple(shown),
        below_floor=len(scored.candidates) - len(order),
        below_limit=len(order) - len(shown),
    )


def places_without_novelty(count: int, weighting: Weighting) -> int:
    """The first places of a list of `count`.

    >>> weighting = Weighting(relevance=1, novelty=1, relevance_floor=0, novelty_share=0.3)
    >>> [places_without_novelty(count, weighting) for count in (1, 3, 5, 10)]
    [1, 3, 4, 7]
    """
    if weighting.novelty == 0 or weighting.novelty_share >= 1:
        return 0
    return count - int(weighting.novelty_share * count + 1e-9)


def _best_first(values: Floats, above: npt.NDArray[np.intp], scored: Scored) -> list[int]:
    """The candidates `above`, by value, ties by item id. Ids are looked at only where values are equal."""
    order = above[np.argsort(-values[above], kind="stable")]
    ordered = values[order]
    if (ordered[1:] == ordered[:-1]).any():
        item_ids = scored.candidates.item_ids
        return sorted(above.tolist(), key=lambda place: (-values[place], item_ids[place]))
    best: list[int] = order.tolist()
    return best


def _others(order: list[int], shown: list[Position]) -> Iterator[int]:
    """The candidates that are in no position, best first."""
    taken = {position.candidate for position in shown}
    return (candidate for candidate in order if candidate not in taken)


def _spread(
    candidates: Iterable[int],
    values: Floats,
    scored: Scored,
    weighting: Weighting,
    limit: int,
    *,
    after: Sequence[Position] = (),
    counts_novelty: bool = True,
) -> list[Position]:
    """`limit` positions `after` others, greedily by value × diversity, from candidates that are best first.

    One line per category, so that heads compare.
    """
    if weighting.diversity == 0 or weighting.category_correlation == 0:
        return [
            Position(candidate=candidate, value=float(values[candidate]), counts_novelty=counts_novelty)
            for candidate in islice(candidates, limit)
        ]
    order = list(candidates)
    lines: defaultdict[int, list[int]] = defaultdict(list)
    categories: list[int] = scored.categories.tolist()
    for place, candidate in enumerate(order):
        lines[categories[candidate]].append(place)
    placed: defaultdict[int, int] = defaultdict(int)
    for position in after:
        placed[categories[position.candidate]] += 1
    placed[NO_CATEGORY] = 0
    factors = [1.0]

    def factor(category: int) -> float:
        while len(factors) <= placed[category]:
            factors.append(diversity_after(len(factors), weighting) ** weighting.diversity)
        return factors[placed[category]]

    value: list[float] = values.tolist()
    heads = [(-value[order[line[0]]] * factor(category), line[0], category, 0) for category, line in lines.items()]
    heapq.heapify(heads)
    shown: list[Position] = []
    while heads and len(shown) < limit:
        negative, place, category, before = heapq.heappop(heads)
        shown.append(
            Position(
                candidate=order[place],
                value=-negative,
                diversity=diversity_after(placed[category], weighting),
                counts_novelty=counts_novelty,
            )
        )
        if category != NO_CATEGORY:
            placed[category] += 1
        if before + 1 < len(lines[category]):
            following = lines[category][before + 1]
            heapq.heappush(heads, (-value[order[following]] * factor(category), following, category, before + 1))
    return shown


def diversity_after(placed: int, weighting: Weighting) -> float:
    """
    >>> [round(diversity_after(n, Weighting(relevance=1, novelty=0, relevance_floor=0)), 3) for n in (0, 1, 2)]
    [1.0, 0.866, 0.816]
    """
    rho = weighting.category_correlation
    explained = rho * rho * placed / (1 + (placed - 1) * rho) if placed else 0.0
    return float((1 - explained) ** 0.5)


def value_of(scored: Scored, weighting: Weighting, *, counts_novelty: bool = True) -> Floats:
    """Without the term of diversity, which depends on what else is shown."""
    value: Floats = _term(scored.relevance) ** weighting.relevance
    if counts_novelty:
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
            weighting.novelty if position.counts_novelty else 0.0,
            "how few users know the item; counts in the last places, more the less active the user",
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
