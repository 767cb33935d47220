"""Who is randomised, by what, and with which weights."""

from __future__ import annotations

import numpy as np
import pytest

from feature_repo.lifecycle import Lifecycle
from serving.gateway.domain import (
    Behavior,
    Candidate,
    Drop,
    ItemId,
    ModelVersion,
    Objective,
    Query,
    Source,
    User,
    UserId,
)
from serving.gateway.policy_book import Policy, StateSection
from serving.gateway.slate import Scored, fill, weigh
from tests.gateway.fakes import DAY_S, NOW_S

SCORED = Scored(
    candidates=tuple(Candidate(item_id=ItemId(f"i{place:02}"), source=Source.CALLER) for place in range(60)),
    scores=np.linspace(0.9, 0.1, 60).astype(np.float32),
    relevance=np.linspace(0.9, 0.1, 60),
    novelty=np.full(60, 0.5),
    model=ModelVersion(name="m", version=1),
)


def user(state: Lifecycle = Lifecycle.NEW, *, tail: float = 1.0) -> User:
    return User(
        user_id=UserId(""),
        state=state,
        days_in_state=0,
        p_alive=None,
        tail_percentile=tail,
        last_seen_unix_s=None,
        history=(),
    )


def answer(query: Query, *, now_unix_s: float = NOW_S, policy: Policy | None = None) -> tuple[str, ...]:
    items, _ = fill(SCORED, query=query, user=user(), policy=policy or Policy(), now_unix_s=now_unix_s)
    return tuple(item.item_id for item in items)


def anonymous(*item_ids: str) -> Query:
    history = tuple(Behavior(item_id=ItemId(item_id), event_type="view", unix_s=0) for item_id in item_ids)
    return Query(user_id=UserId(""), history=history)


def test_a_users_answer_stays_the_same_for_a_day() -> None:
    query = Query(user_id=UserId("u"))
    midnight_s = NOW_S - NOW_S % DAY_S
    assert len({answer(query, now_unix_s=midnight_s + second) for second in (0, 1, 3600, DAY_S - 1)}) == 1
    assert len({answer(query, now_unix_s=midnight_s + day * DAY_S) for day in range(60)}) > 5


def test_users_are_randomised_apart() -> None:
    assert len({answer(Query(user_id=UserId(f"u{place}"))) for place in range(60)}) > 5


def test_anonymous_users_are_randomised_by_what_they_did() -> None:
    assert len({answer(anonymous(f"x{place}")) for place in range(60)}) > 5
    assert answer(anonymous("x", "y")) == answer(anonymous("x", "y"))


def test_another_experiment_draws_anew() -> None:
    policies = [Policy.model_validate({"experiment": {"name": f"e{place}"}}) for place in range(60)]
    assert len({answer(Query(user_id=UserId("u")), policy=policy) for policy in policies}) > 5


def test_what_is_not_among_the_items_is_counted() -> None:
    new = StateSection(objective="explore", exploration_rate=0.0, relevance_floor=0.5)
    policy = Policy.model_validate({"states": {"new": new.model_dump()}})
    items, dropped = fill(SCORED, query=Query(user_id=UserId("u")), user=user(), policy=policy, now_unix_s=NOW_S)
    assert dropped == {Drop.BELOW_FLOOR: 30, Drop.BELOW_LIMIT: 20}
    assert len(items) == 10


@pytest.mark.parametrize("tail", [0.0, 0.25, 1.0])
def test_novelty_counts_the_more_the_less_active_the_user(tail: float) -> None:
    query, policy = Query(user_id=UserId("u"), objective=Objective.ACTIVATE), Policy()
    assert weigh(query, user(tail=tail), policy, is_prior=False).novelty == policy.objectives.activate.novelty * tail


def test_the_prior_alone_orders_when_there_is_no_model() -> None:
    weighting = weigh(Query(user_id=UserId("u")), user(), Policy(), is_prior=True)
    assert weighting.novelty == 0
    assert weighting.relevance_floor == 0
