"""Who is randomised, by what, and with which weights."""

from __future__ import annotations

import numpy as np
import pytest

from feature_repo.lifecycle import Lifecycle
from serving.gateway.domain import Behavior, Drop, Experiment, ItemId, Objective, Query, User, UserId
from serving.gateway.policy.document import Policy, StateSection
from serving.gateway.policy.slate import fill, seed_of, unit_of, weigh
from tests.gateway.fakes import DAY_S, NOW_S, scored

SCORED = scored(np.linspace(0.9, 0.1, 60).tolist())
ARMS = [Experiment(layer="l", name="e", arm=f"a{place}", version="1") for place in range(60)]


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


def answer(
    query: Query, *, now_unix_s: float = NOW_S, policy: Policy | None = None, experiments: tuple[Experiment, ...] = ()
) -> tuple[str, ...]:
    policy = policy or Policy()
    seed = seed_of(policy, experiments, unit_of(query), now_unix_s=now_unix_s)
    items, _ = fill(SCORED, query=query, user=user(), policy=policy, seed=seed)
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


def test_another_salt_or_arm_draws_anew() -> None:
    query = Query(user_id=UserId("u"))
    policies = [Policy.model_validate({"exploration": {"salt": f"s{place}"}}) for place in range(60)]
    assert len({answer(query, policy=policy) for policy in policies}) > 5
    assert len({answer(query, experiments=(arm,)) for arm in ARMS}) > 5


def test_what_is_not_among_the_items_is_counted() -> None:
    new = StateSection(objective="explore", exploration_rate=0.0, relevance_floor=0.5)
    policy = Policy.model_validate({"states": {"new": new.model_dump()}})
    items, dropped = fill(SCORED, query=Query(user_id=UserId("u")), user=user(), policy=policy, seed=None)
    assert dropped == {Drop.BELOW_FLOOR: 30, Drop.BELOW_LIMIT: 20}
    assert len(items) == 10


@pytest.mark.parametrize("tail", [0.0, 0.25, 1.0])
def test_novelty_counts_the_more_the_less_active_the_user(tail: float) -> None:
    policy = Policy()
    assert (
        weigh(Objective.ACTIVATE, user(tail=tail), policy, is_prior=False).novelty
        == policy.objectives.activate.novelty * tail
    )


def test_the_prior_alone_orders_when_there_is_no_model() -> None:
    weighting = weigh(Objective.AUTO, user(), Policy(), is_prior=True)
    assert weighting.novelty == 0
    assert weighting.relevance_floor == 0
