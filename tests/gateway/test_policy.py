"""The order, the propensities, and that nothing vanishes."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.policy.exploration import Exploration, choice_probabilities
from serving.gateway.policy.order import Slate, Weighting, arrange, terms_of, value_of
from tests.gateway.fakes import scored

PLAIN = Weighting(relevance=1.0, novelty=0.0, relevance_floor=0.0)


def slate(
    relevance: list[float],
    *,
    novelty: list[float] | None = None,
    weighting: Weighting = PLAIN,
    limit: int = 10,
    exploration: Exploration | None = None,
    categories: list[int] | None = None,
    exposures: list[float] | None = None,
) -> Slate:
    given = scored(relevance, novelty=novelty, categories=categories, exposures=exposures)
    return arrange(given, weighting=weighting, limit=limit, exploration=exploration)


def order(slate: Slate) -> list[int]:
    return [position.candidate for position in slate.positions]


def explores(seed: str = "s", *, rate: float = 0.3, slots: int = 2, pool: int = 6) -> Exploration:
    return Exploration(seed=seed, rate=rate, slots=slots, pool=pool)


def test_without_a_weight_for_novelty_relevance_alone_orders() -> None:
    assert order(slate([0.1, 0.9, 0.5], novelty=[1.0, 0.1, 0.5])) == [1, 2, 0]


def test_novelty_counts_as_much_as_its_weight() -> None:
    weighting = Weighting(relevance=1.0, novelty=1.0, relevance_floor=0.0)
    assert order(slate([0.9, 0.5], novelty=[0.1, 0.9], weighting=weighting)) == [1, 0]


def test_novelty_counts_in_the_last_places_alone() -> None:
    relevance, novelty = [0.9, 0.8, 0.7, 0.6, 0.1, 0.2], [0.1, 0.1, 0.1, 0.1, 0.9, 0.8]
    weighting = Weighting(relevance=1.0, novelty=2.0, relevance_floor=0.0, novelty_share=0.5)
    assert order(slate(relevance, novelty=novelty, weighting=weighting, limit=4)) == [0, 1, 5, 4]
    assert order(slate(relevance, novelty=novelty, weighting=weighting, limit=1)) == [0]
    assert order(slate(relevance, novelty=novelty, weighting=replace(weighting, novelty_share=1.0), limit=4)) == [
        5,
        4,
        0,
        1,
    ]


def test_the_last_places_are_spread_after_the_first() -> None:
    """Item 3 is the most novel, but of the category that the first place has."""
    weighting = Weighting(
        relevance=1.0, novelty=1.0, relevance_floor=0.0, novelty_share=0.75, diversity=4.0, category_correlation=0.9
    )
    relevance, novelty = [0.9, 0.8, 0.5, 0.5], [0.1, 0.1, 0.8, 0.9]
    found = slate(relevance, novelty=novelty, categories=[1, 1, 2, 1], weighting=weighting, limit=4)
    assert order(found) == [0, 2, 3, 1]
    assert [position.diversity < 1 for position in found.positions] == [False, False, True, True]


def test_value_is_the_product_of_its_terms() -> None:
    weighting = Weighting(relevance=2.0, novelty=0.5, relevance_floor=0.0, fatigue=1.0, diversity=2.0)
    given = scored([0.6, 0.5], novelty=[0.25, 0.25], exposures=[1.0, 0.0], categories=[1, 1])
    assert np.isclose(value_of(given, weighting)[0], 0.6**2 * 0.25**0.5 * 0.5)
    assert order(arrange(given, weighting=weighting, limit=2, exploration=None)) == [1, 0]


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 2)), min_size=1, max_size=20),
    st.sampled_from([0.0, 0.5]),
    st.floats(0.01, 1),
    st.floats(0, 1),
    st.integers(1, 8),
)
def test_the_value_of_each_place_is_the_product_of_its_terms(
    candidates: list[tuple[float, float, int]], diversity: float, share: float, novelty: float, limit: int
) -> None:
    weighting = Weighting(
        relevance=2.0, novelty=novelty, relevance_floor=0.0, novelty_share=share, fatigue=1.0, diversity=diversity
    )
    given = scored(
        [one for one, _, _ in candidates],
        novelty=[one for _, one, _ in candidates],
        categories=[one for _, _, one in candidates],
    )
    found = arrange(given, weighting=weighting, limit=limit, exploration=explores(rate=0.5))
    for position in found.positions:
        terms = terms_of(given, position, weighting)
        assert np.isclose(np.prod([term.value**term.weight for term in terms]), position.value)


def test_what_was_shown_in_vain_sinks_and_recovers() -> None:
    weighting = Weighting(relevance=1.0, novelty=0.0, relevance_floor=0.0, fatigue=1.0)
    assert order(slate([0.9, 0.5], exposures=[2.0, 0.0], weighting=weighting)) == [1, 0]
    assert order(slate([0.9, 0.5], exposures=[0.1, 0.0], weighting=weighting)) == [0, 1]


def test_categories_take_turns_the_more_the_more_diversity_weighs() -> None:
    relevance, categories = [0.9, 0.88, 0.86, 0.6, 0.5], [1, 1, 1, 2, 0]
    assert order(slate(relevance, categories=categories)) == [0, 1, 2, 3, 4]
    weighting = Weighting(relevance=1.0, novelty=0.0, relevance_floor=0.0, diversity=4.0, category_correlation=0.6)
    assert order(slate(relevance, categories=categories, weighting=weighting)) == [0, 3, 4, 1, 2]


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.integers(0, 3)), min_size=1, max_size=25),
    st.floats(0.1, 5),
    st.floats(0.05, 0.95),
    st.integers(1, 12),
)
def test_the_spread_is_the_greedy_determinant(
    candidates: list[tuple[float, int]], weight: float, rho: float, limit: int
) -> None:
    """Against a plain greedy that computes each conditional variance from the kernel."""
    weighting = Weighting(relevance=1.0, novelty=0.0, relevance_floor=0.0, diversity=weight, category_correlation=rho)
    relevance, categories = [value for value, _ in candidates], [category for _, category in candidates]
    found = slate(relevance, categories=categories, weighting=weighting, limit=limit)
    same = np.equal.outer(categories, categories) & (np.array(categories) != 0)
    kernel = np.where(same, rho, 0.0)
    np.fill_diagonal(kernel, 1.0)
    chosen: list[int] = []
    for position in found.positions:
        rest = [place for place in range(len(candidates)) if place not in chosen]
        worth = {}
        for place in rest:
            variance = 1.0
            if chosen:
                across = kernel[np.ix_([place], chosen)]
                variance -= (across @ np.linalg.solve(kernel[np.ix_(chosen, chosen)], across.T)).item()
            worth[place] = relevance[place] * max(variance, 0.0) ** (weight / 2)
        assert worth[position.candidate] >= max(worth.values()) * (1 - 1e-6)
        assert np.isclose(position.value, worth[position.candidate], rtol=1e-5)
        chosen.append(position.candidate)
    assert len(chosen) == min(limit, len(candidates))


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
    share=st.floats(0.01, 1),
    limit=st.integers(1, 50),
    exploration=explorations,
)
def test_ranked_and_not_ranked_are_all_candidates(
    candidates: list[tuple[float, float]],
    floor: float,
    novelty: float,
    share: float,
    limit: int,
    exploration: Exploration | None,
) -> None:
    found = slate(
        [relevance for relevance, _ in candidates],
        novelty=[share for _, share in candidates],
        weighting=Weighting(relevance=1.0, novelty=novelty, relevance_floor=floor, novelty_share=share),
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
        given = scored(
            [place // 3 / 4 for place in places],  # ties among them
            categories=[place % 3 for place in places],
            rates=[place / 20 for place in places],
            item_ids=[f"i{place:02}" for place in places],
        )
        found = arrange(
            given,
            weighting=Weighting(relevance=1.0, novelty=0.0, relevance_floor=0.0, diversity=1.0),
            limit=5,
            exploration=exploration,
        )
        return [(f"i{places[position.candidate]:02}", position.propensity) for position in found.positions]

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


def test_thompsons_choice_prefers_better_rates_keeps_a_floor_and_is_told_exactly() -> None:
    """Ten candidates beyond two shown: the drawn one's propensity is its frequency."""
    rates, trials = [0.0, 0.0, *(place / 10 for place in range(10))], [50.0] * 12
    given = scored([1.0 - place / 20 for place in range(12)], rates=rates, trials=trials)
    draws = 10_000
    seen: Counter[int] = Counter()
    told: dict[int, float] = {}
    for draw in range(draws):
        exploration = Exploration(seed=f"user {draw}", rate=0.5, slots=1, pool=10, floor=0.3, prior_trials=10)
        last = arrange(given, weighting=PLAIN, limit=2, exploration=exploration).positions[-1]
        seen[last.candidate] += 1
        assert told.setdefault(last.candidate, last.propensity) == last.propensity
    assert np.isclose(sum(told.values()), 1.0)
    for place, propensity in told.items():
        assert abs(seen[place] / draws - propensity) <= 4 * (propensity * (1 - propensity) / draws) ** 0.5
    assert told[11] > 5 * told[2] > 0
    assert min(told.values()) >= 0.5 * 0.3 / 10 * 0.999


def test_what_was_shown_less_is_explored_more() -> None:
    exploration = Exploration(seed="", rate=0.1, slots=1, pool=10, floor=0.1, prior_trials=10)
    rates, trials = np.array([0.2] * 4), np.array([0.0, 1000.0, 1000.0, 1000.0])
    chances = choice_probabilities(rates, trials, exploration)
    assert np.argmax(chances) == 0
    assert np.isclose(chances.sum(), 1.0)
