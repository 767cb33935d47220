"""Who is held out, and who is in which arm."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.domain import UserId
from serving.gateway.policy.book import PolicyBook, parse
from serving.gateway.policy.document import Policy
from serving.gateway.policy.experiments import assign
from tests.gateway.conftest import Start
from tests.gateway.fakes import World

TWO_LAYERS = """
holdout = {{ rate = {rate}, always = ["out"], never = ["in"] }}
[[layers]]
name = "ranking"
salt = "r"
[[layers.experiments]]
name = "novelty"
share = 0.5
arms = [
    {{ name = "control" }},
    {{ name = "novel", weight = 3, always = ["tester"], policy.objectives.activate.novelty = 2.0 }},
]
[[layers.experiments]]
name = "relevance"
share = 0.3
arms = [{{ name = "control" }}, {{ name = "flat", policy.objectives.activate.relevance = 0.5 }}]
[[layers]]
name = "exploring"
salt = "x"
[[layers.experiments]]
name = "wide"
arms = [{{ name = "control" }}, {{ name = "wide", policy.exploration.pool = 100 }}]
"""
USERS = [UserId(f"u{place}") for place in range(20_000)]


def policy(rate: float = 0.1) -> Policy:
    return parse(TWO_LAYERS.format(rate=rate), where="test")


def near(count: int, share: float, of: int = len(USERS)) -> bool:
    return bool(abs(count - share * of) <= 4 * (share * (1 - share) * of) ** 0.5)


def test_shares_are_as_said_and_experiments_of_a_layer_exclude_each_other() -> None:
    given = policy()
    arms: Counter[tuple[str, str]] = Counter()
    held_out = 0
    for user in USERS:
        found = assign(given, user)
        held_out += found.is_held_out
        arms.update((one.name, one.arm) for one in found.experiments)
        assert len({one.layer for one in found.experiments}) == len(found.experiments)
    assert near(held_out, 0.1)
    assert near(arms["novelty", "control"], 0.125)
    assert near(arms["novelty", "novel"], 0.375)
    assert near(arms["relevance", "control"], 0.15)
    assert near(arms["wide", "wide"], 0.5)


def test_layers_and_the_holdout_are_independent() -> None:
    given = policy()
    both: Counter[tuple[str, str, bool]] = Counter()
    for user in USERS:
        found = assign(given, user)
        of = {one.name: one.arm for one in found.experiments}
        both[of.get("novelty", ""), of["wide"], found.is_held_out] += 1
    for arm, share in (("novel", 0.375), ("control", 0.125)):
        for wide in ("wide", "control"):
            assert near(both[arm, wide, False] + both[arm, wide, True], share / 2)
            assert near(both[arm, wide, True], share / 20)


def test_an_arm_decides_by_its_own_policy_and_says_its_version() -> None:
    given = policy()
    tester = assign(given, UserId("tester"))
    assert tester.policy.objectives.activate.novelty == 2.0
    assert tester.policy.objectives.activate.relevance == given.objectives.activate.relevance
    changed = parse(TWO_LAYERS.format(rate=0.1).replace("novelty = 2.0", "novelty = 3.0"), where="")
    versions = [next(one.version for one in assign(one, UserId("tester")).experiments) for one in (given, changed)]
    assert versions[0] != versions[1]
    named = parse(TWO_LAYERS.format(rate=0.1).replace('"tester"', '"tester", "another"'), where="")
    assert assign(named, UserId("tester")).experiments == tester.experiments


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_holdout_of_nobody_and_of_everybody(rate: float) -> None:
    given = policy(rate)
    assert {assign(given, user).is_held_out for user in USERS[:200]} == {bool(rate)}
    assert assign(given, UserId("out")).is_held_out
    assert not assign(given, UserId("in")).is_held_out


@given(st.text(min_size=1, max_size=20))
def test_the_same_user_is_always_assigned_the_same(user_id: str) -> None:
    assert assign(policy(), UserId(user_id)) == assign(policy(), UserId(user_id))


def test_nobody_knows_what_becomes_of_an_anonymous_user() -> None:
    found = assign(policy(1.0), UserId(""))
    assert not found.is_held_out
    assert found.experiments == ()


async def test_a_user_held_out_gets_no_items_and_the_log_has_them(start: Start, world: World, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(TWO_LAYERS.format(rate=0.0).replace('"out"', '"dormant"'))
    running = await start(world, policies=PolicyBook(path))
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="dormant"))
    assert answer.decision == pb.DECISION_HOLD_OUT
    assert answer.decision_reason == "global_holdout"
    assert not answer.items
    assert {one.name for one in answer.experiments} >= {"wide"}
    ((_, ranking),) = world.decisions.recorded
    assert ranking.items
    assert ranking.contact_propensity == 1.0
    assert (await running.activation.RankItems(pb.RankItemsRequest(user_id="casual"))).items
