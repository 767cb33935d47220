"""The policy as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.errors import LongtailError
from feature_repo.lifecycle import Lifecycle
from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.domain import Objective
from serving.gateway.policy_book import SHIPPED, Policy, PolicyBook, parse
from tests.gateway.conftest import Start
from tests.gateway.fakes import World


def test_the_shipped_policy_is_the_coded_one_and_says_every_key() -> None:
    shipped = parse(SHIPPED.read_text(), where="shipped")
    assert shipped == Policy()
    assert shipped.model_dump() == shipped.model_dump(exclude_unset=True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("slot = 3", "slot = 3: unknown key"),
        ("[exploration]\nslotts = 3", "exploration.slotts = 3: unknown key"),
        ("[states.sleepy]\nprior = 'popular'", "states.sleepy"),
        (
            "[states.new]\nobjective = 'explore'\nexploration_rate = 0.9",
            "states.new.exploration_rate = 0.9: Input should be less than or equal to 0.5",
        ),
        ("[objectives.retain]\nrelevance = -1\nnovelty = 0", "objectives.retain.relevance = -1"),
        ("name =", "not valid TOML"),
    ],
)
def test_a_policy_that_is_wrong_is_refused_and_the_key_named(text: str, told: str) -> None:
    with pytest.raises(LongtailError) as refused:
        parse(text, where="policy.toml")
    assert told in str(refused.value)


def test_a_policy_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(LongtailError, match="cannot be read"):
        PolicyBook(tmp_path / "none.toml")


def test_the_version_changes_with_the_content_and_not_with_the_layout() -> None:
    text = SHIPPED.read_text()
    version = parse(text, where="").version
    assert version.startswith("first-activation@")
    assert parse("# another comment\n" + text, where="").version == version
    assert parse(text.replace("slots = 2", "slots = 3"), where="").version != version


def test_auto_means_the_states_objective() -> None:
    policy = Policy()
    assert policy.objective(Objective.AUTO, Lifecycle.DORMANT) == policy.objectives.activate
    assert policy.objective(Objective.AUTO, Lifecycle.ACTIVE) == policy.objectives.retain
    assert policy.objective(Objective.EXPLORE, Lifecycle.ACTIVE) == policy.objectives.explore


async def test_a_new_policy_is_in_the_next_answer_and_a_broken_one_is_not(
    start: Start, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('name = "one"')
    policies = PolicyBook(path)
    running = await start(world, policies=policies)
    request = pb.RankItemsRequest(user_id="casual")

    async def version() -> str:
        return (await running.activation.RankItems(request)).policy_version.partition("@")[0]

    assert await version() == "one"
    assert not policies.reload_if_touched()
    path.write_text('name = "second"')
    assert policies.reload_if_touched()
    assert await version() == "second"
    path.write_text('name = "third"\nunknown = 1')
    assert not policies.reload_if_touched()
    assert await version() == "second"
    assert "unknown key" in caplog.text
    path.unlink()
    assert not policies.reload()
    assert await version() == "second"
