"""The order, the propensities, and that nothing vanishes."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.domain import ItemId
from serving.gateway.policy import Exploration, Slate, Weighting, arrange, terms_of, value_of

PLAIN = Weighting(relevance=1.0, novelty=0.0, relevance_floor=0.0)


def slate(
    relevance: list[float],
    *,
    novelty: list[float] | None = None,
    weighting: Weighting = PLAIN,
    limit: int = 10,
    exploration: Exploration | None = None,
) -> Slate:
    return arrange(
        item_ids=[ItemId(f"i{place:03}") for place in range(len(relevance))],
        relevance=np.array(relevance, np.float64),
        novelty=np.array(novelty or [0.5] * len(relevance), np.float64),
        weighting=weighting,
        limit=limit,
        exploration=exploration,
    )


def order(slate: Slate) -> list[int]:
    return [position.candidate for position in slate.positions]


def explores(seed: str = "s", *, rate: float = 0.3, slots: int = 2, pool: int = 6) -> Exploration:
    return Exploration(seed=seed, rate=rate, slots=slots, pool=pool)


def test_without_a_weight_for_novelty_relevance_alone_orders() -> None:
    assert order(slate([0.1, 0.9, 0.5], novelty=[1.0, 0.1, 0.5])) == [1, 2, 0]


def test_novelty_counts_as_much_as_its_weight() -> None:
    weighting = Weighting(relevance=1.0, novelty=1.0, relevance_floor=0.0)
    assert order(slate([0.9, 0.5], novelty=[0.1, 0.9], weighting=weighting)) == [1, 0]


def test_value_is_the_product_of_its_terms() -> None:
    weighting = Weighting(relevance=2.0, novelty=0.5, relevance_floor=0.0)
    value = value_of(np.array([0.6]), np.array([0.25]), weighting)[0]
    assert value == 0.6**2 * 0.25**0.5
    terms = terms_of(0.6, 0.25, weighting, is_prior=False)
    assert np.isclose(np.prod([term.value**term.weight for term in terms]), value)


def test_items_below_the_floor_are_counted_and_not_shown() -> None:
    weighting = Weighting(relevance=1.0, novelty=1.0, relevance_floor=0.3)
    found = slate([0.29, 0.3, 0.8], weighting=weighting)
    assert order(found) == [2, 1]
    assert found.below_floor == 1


def test_a_term_of_zero_leaves_the_others_to_decide() -> None:
    weighting = Weighting(relevance=1.0, novelty=1.0, relevance_floor=0.0)
    assert order(slate([0.2, 0.8], novelty=[0.0, 0.0], weighting=weighting)) == [1, 0]


shares = st.floats(0, 1)
explorations = st.none() | st.builds(
    Exploration, seed=st.text(max_size=5), rate=st.floats(0, 0.5), slots=st.integers(0, 5), pool=st.integers(1, 20)
)


@given(
    candidates=st.lists(st.tuples(shares, shares), max_size=40),
    floor=st.floats(0, 0.9),
    novelty=st.floats(0, 3),
    limit=st.integers(1, 50),
    exploration=explorations,
)
def test_ranked_and_not_ranked_are_all_candidates(
    candidates: list[tuple[float, float]], floor: float, novelty: float, limit: int, exploration: Exploration | None
) -> None:
    found = slate(
        [relevance for relevance, _ in candidates],
        novelty=[share for _, share in candidates],
        weighting=Weighting(relevance=1.0, novelty=novelty, relevance_floor=floor),
        limit=limit,
        exploration=exploration,
    )
    assert len(found.positions) + found.below_floor + found.below_limit == len(candidates)
    assert len(set(order(found))) == len(found.positions) <= limit
    for position in found.positions:
        assert 0 < position.propensity <= 1
        assert 0 < position.value <= 1
        assert candidates[position.candidate][0] >= floor


@given(candidates=st.lists(shares, max_size=30), exploration=explorations, limit=st.integers(1, 20))
def test_exploration_leaves_the_upper_half_and_all_but_its_slots_alone(
    candidates: list[float], exploration: Exploration | None, limit: int
) -> None:
    best, found = order(slate(candidates, limit=limit)), slate(candidates, limit=limit, exploration=exploration)
    slots = 0 if exploration is None else exploration.slots
    untouched = max(len(best) - slots, (len(best) + 1) // 2)
    assert order(found)[:untouched] == best[:untouched]
    for candidate, position in zip(best, found.positions, strict=True):
        assert position.is_exploration == (position.candidate != candidate)
        assert position.candidate not in best or position.candidate == candidate


@given(st.permutations(range(12)), explorations)
def test_the_order_of_the_candidates_in_the_question_does_not_matter(
    places: list[int], exploration: Exploration | None
) -> None:
    def items(places: list[int]) -> list[tuple[str, float]]:
        found = arrange(
            item_ids=[ItemId(f"i{place}") for place in places],
            relevance=np.array([place // 3 / 4 for place in places], np.float64),  # ties among them
            novelty=np.ones(len(places)),
            weighting=PLAIN,
            limit=5,
            exploration=exploration,
        )
        return [(f"i{places[position.candidate]}", position.propensity) for position in found.positions]

    assert items(places) == items(list(range(12)))


def test_propensities_are_the_frequencies_over_many_draws() -> None:
    """Twelve candidates, four shown, two slots: each (rank, item) as often as its propensity says."""
    draws = 20_000
    seen: Counter[tuple[int, int]] = Counter()
    told: defaultdict[tuple[int, int], set[float]] = defaultdict(set)
    relevance = [1.0 - place / 20 for place in range(12)]
    for draw in range(draws):
        found = slate(relevance, limit=4, exploration=explores(f"user {draw}", rate=0.3, slots=2, pool=7))
        for rank, position in enumerate(found.positions):
            seen[rank, position.candidate] += 1
            told[rank, position.candidate].add(position.propensity)
    for place, propensities in told.items():
        (propensity,) = propensities  # of one item at one rank there is one propensity
        spread = (propensity * (1 - propensity) / draws) ** 0.5
        assert abs(seen[place] / draws - propensity) <= 4 * spread, place
    for rank in range(4):
        assert np.isclose(sum(next(iter(told[place])) for place in told if place[0] == rank), 1.0)
    assert {item for rank, item in told if rank == 2} == {2, 4, 6, 8, 10}
    assert {item for rank, item in told if rank == 3} == {3, 5, 7, 9}


def test_slots_draw_independently() -> None:
    draws = 10_000
    relevance = [1.0 - place / 20 for place in range(12)]
    both = 0
    for draw in range(draws):
        found = slate(relevance, limit=4, exploration=explores(f"user {draw}", rate=0.3))
        both += found.positions[2].is_exploration and found.positions[3].is_exploration
    assert abs(both / draws - 0.09) < 0.012


def test_with_nothing_beyond_the_list_nothing_is_explored() -> None:
    found = slate([0.5] * 4, limit=4, exploration=explores(rate=0.5))
    assert {position.propensity for position in found.positions} == {1.0}


def test_a_list_of_one_is_never_explored() -> None:
    found = slate([0.5] * 40, limit=1, exploration=explores(rate=0.5))
    assert found.positions[0].propensity == 1.0


def test_the_same_seed_draws_the_same() -> None:
    relevance = [1.0 - place / 50 for place in range(30)]
    assert slate(relevance, exploration=explores("a")) == slate(relevance, exploration=explores("a"))
    drawn = {tuple(order(slate(relevance, exploration=explores(f"{day}")))) for day in range(50)}
    assert len(drawn) > 5
