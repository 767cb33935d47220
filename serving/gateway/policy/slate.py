"""From scored candidates to the items of the answer: applies the policy; pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from serving.gateway.domain import Drop, Experiment, Objective, Query, RankedItem, Scored, Term, User
from serving.gateway.policy.document import Policy
from serving.gateway.policy.exploration import Exploration, Position
from serving.gateway.policy.order import Weighting, arrange, terms_of


def fill(
    scored: Scored, *, query: Query, user: User, policy: Policy, seed: str | None
) -> tuple[tuple[RankedItem, ...], Mapping[Drop, int]]:
    """The items of the answer, and how many candidates are not among them by reason. Without a seed none explores."""
    weighting = weigh(query.objective, user, policy, is_prior=scored.is_prior)
    slate = arrange(
        scored,
        weighting=weighting,
        limit=query.limit,
        exploration=None if seed is None else _exploration(seed, user, policy),
    )
    items = tuple(
        _item(scored, position, rank, weighting if query.explain else None)
        for rank, position in enumerate(slate.positions, start=1)
    )
    return items, +Counter({Drop.BELOW_FLOOR: slate.below_floor, Drop.BELOW_LIMIT: slate.below_limit})


def weigh(wanted: Objective, user: User, policy: Policy, *, is_prior: bool) -> Weighting:
    """Without a model the prior's order stands but for fatigue: novelty would turn it upside down, floors are for
    scores."""
    objective = policy.objective(wanted, user.state)
    return Weighting(
        relevance=objective.relevance,
        novelty=0.0 if is_prior else objective.novelty * user.tail_percentile,
        novelty_share=objective.novelty_share,
        relevance_floor=0.0 if is_prior else policy.state(user.state).relevance_floor,
        fatigue=objective.fatigue,
        diversity=objective.diversity,
        category_correlation=policy.diversity.category_correlation,
    )


def _exploration(seed: str, user: User, policy: Policy) -> Exploration:
    state, exploration = policy.state(user.state), policy.exploration
    return Exploration(
        seed=seed,
        rate=state.exploration_rate,
        slots=state.exploration_slots,
        pool=exploration.pool,
        floor=exploration.floor,
        prior_trials=exploration.prior_trials,
    )


def seed_of(policy: Policy, experiments: Sequence[Experiment], unit: str, *, now_unix_s: float) -> str:
    """Salt, arms, UTC day and user: another of any of them draws anew."""
    day = datetime.fromtimestamp(now_unix_s, UTC).date().isoformat()
    arms = [f"{one.name}={one.arm}" for one in experiments]
    return "\n".join((policy.exploration.salt, *arms, day, unit))


def unit_of(query: Query) -> str:
    """Who is randomised: the user, or for an anonymous one the behaviours given."""
    if query.user_id:
        return f"user {query.user_id}"
    words = "\n".join(behavior.item_id for behavior in query.history or ())
    return f"anonymous {hashlib.blake2b(words.encode(), digest_size=16).hexdigest()}"


def _item(scored: Scored, position: Position, rank: int, explained: Weighting | None) -> RankedItem:
    place = position.candidate
    terms: tuple[Term, ...] = () if explained is None else terms_of(scored, position, explained)
    return RankedItem(
        item_id=scored.candidates.item_ids[place],
        rank=rank,
        score=float(scored.scores[place]),
        value=position.value,
        propensity=position.propensity,
        source=scored.candidates.sources[place],
        is_exploration=position.is_exploration,
        terms=terms,
    )
