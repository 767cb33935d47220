"""From scored candidates to the items of the answer: applies the policy; pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from serving.gateway.domain import (
    Candidate,
    Drop,
    Float32s,
    Floats,
    ModelVersion,
    Query,
    RankedItem,
    Term,
    User,
)
from serving.gateway.policy import Exploration, Position, Weighting, arrange, terms_of
from serving.gateway.policy_book import Policy


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The eligible candidates; `relevance` is the model's score, or the prior's word when `model` is None."""

    candidates: tuple[Candidate, ...]
    scores: Float32s  # [candidates], 0 without a model
    relevance: Floats  # [candidates]
    novelty: Floats  # [candidates]
    model: ModelVersion | None

    @property
    def is_prior(self) -> bool:
        return self.model is None


def fill(
    scored: Scored, *, query: Query, user: User, policy: Policy, now_unix_s: float, explores: bool = True
) -> tuple[tuple[RankedItem, ...], Mapping[Drop, int]]:
    """The items of the answer, and how many candidates are not among them by reason."""
    weighting = weigh(query, user, policy, is_prior=scored.is_prior)
    slate = arrange(
        item_ids=[candidate.item_id for candidate in scored.candidates],
        relevance=scored.relevance,
        novelty=scored.novelty,
        weighting=weighting,
        limit=query.limit,
        exploration=_exploration(query, user, policy, now_unix_s) if explores else None,
    )
    items = tuple(
        _item(scored, position, rank, weighting if query.explain else None)
        for rank, position in enumerate(slate.positions, start=1)
    )
    return items, +Counter({Drop.BELOW_FLOOR: slate.below_floor, Drop.BELOW_LIMIT: slate.below_limit})


def weigh(query: Query, user: User, policy: Policy, *, is_prior: bool) -> Weighting:
    """Without a model the prior's order stands: novelty would turn it upside down, and floors are for scores."""
    objective = policy.objective(query.objective, user.state)
    if is_prior:
        return Weighting(relevance=objective.relevance, novelty=0.0, relevance_floor=0.0)
    return Weighting(
        relevance=objective.relevance,
        novelty=objective.novelty * user.tail_percentile,
        relevance_floor=policy.state(user.state).relevance_floor,
    )


def _exploration(query: Query, user: User, policy: Policy, now_unix_s: float) -> Exploration:
    day = datetime.fromtimestamp(now_unix_s, UTC).date().isoformat()
    seed = "\n".join((policy.experiment.name, policy.experiment.arm, day, _unit(query)))
    rate = policy.state(user.state).exploration_rate
    return Exploration(seed=seed, rate=rate, slots=policy.exploration.slots, pool=policy.exploration.pool)


def _unit(query: Query) -> str:
    """Who is randomised: the user, or for an anonymous one the behaviours given."""
    if query.user_id:
        return f"user {query.user_id}"
    words = "\n".join(behavior.item_id for behavior in query.history or ())
    return f"anonymous {hashlib.blake2b(words.encode(), digest_size=16).hexdigest()}"


def _item(scored: Scored, position: Position, rank: int, explained: Weighting | None) -> RankedItem:
    place = position.candidate
    terms: tuple[Term, ...] = ()
    if explained is not None:
        relevance, novelty = float(scored.relevance[place]), float(scored.novelty[place])
        terms = terms_of(relevance, novelty, explained, is_prior=scored.is_prior)
    return RankedItem(
        item_id=scored.candidates[place].item_id,
        rank=rank,
        score=float(scored.scores[place]),
        value=position.value,
        propensity=position.propensity,
        source=scored.candidates[place].source,
        is_exploration=position.is_exploration,
        terms=terms,
    )
