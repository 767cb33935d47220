"""The policy as a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feature_repo.errors import LongtailError
from feature_repo.lifecycle import Lifecycle
from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.domain import Objective
from serving.gateway.policy.book import SHIPPED, PolicyBook, from_archive, parse
from serving.gateway.policy.document import Policy, version_of
from tests.gateway.conftest import Start
from tests.gateway.fakes import World

STATE = "objective = 'explore'\nexploration_rate = 0.1\n"
CAPS = "{contacts_1d = 5, contacts_7d = 5, contacts_30d = 5, spacing_h = 0}"
LAYER = """
[[layers]]
name = "ranking"
salt = "1"
[[layers.experiments]]
name = "e1"
share = {share}
arms = [{{name = "a"}}, {{name = "b", policy.objectives.retain = {{ {changed} }} }}]
[[layers.experiments]]
name = "e2"
share = {share}
arms = [{{name = "a"}}, {{name = "b"}}]
"""


def test_the_shipped_policy_is_the_coded_one_and_says_every_key() -> None:
    shipped = parse(SHIPPED.read_text(), where="shipped")
    assert shipped == Policy()
    assert shipped.model_dump(exclude={"layers"}) == shipped.model_dump(exclude_unset=True)


def test_the_experiment_that_the_docs_show_can_be_put_beneath_the_shipped_policy() -> None:
    page = (Path(__file__).parents[2] / "docs" / "activation.md").read_text()
    shown = page.partition("```toml\n")[2].partition("```")[0]
    assert "[[layers.experiments]]" in shown
    policy = parse(SHIPPED.read_text() + shown, where="mine")
    assert [one.name for layer in policy.layers for one in layer.experiments] == ["more-novelty"]
    commented = SHIPPED.read_text().replace("\n# [[", "\n[[").splitlines()
    first = commented.index("[[layers]]")
    uncommented = [*commented[:first], *(line.removeprefix("# ") for line in commented[first:])]
    assert parse("\n".join(uncommented), where="mine").layers


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# a save that is not done", "says nothing"),
        ("slot = 3", "slot = 3: unknown key"),
        ("[exploration]\npoool = 3", "exploration.poool = 3: unknown key"),
        ("[states.sleepy]\nprior = 'popular'", "states.sleepy"),
        (
            "[states.new]\nobjective = 'explore'\nexploration_rate = 0.9",
            "states.new.exploration_rate = 0.9: Input should be less than or equal to 0.5",
        ),
        ("[objectives.retain]\nrelevance = -1\nnovelty = 0", "objectives.retain.relevance = -1"),
        ("name =", "not valid TOML"),
        ("[contacts.caps]\ncontacts_1d = 4\ncontacts_7d = 3\ncontacts_30d = 9\nspacing_h = 0", "contradictory caps"),
        ("[contacts.caps]\ncontacts_1d = 1\ncontacts_7d = 3\ncontacts_30d = 9\nspacing_h = 96", "which allows 2"),
        (f"[states.new]\n{STATE}channels.fax = {CAPS}", "states.new.channels.fax: there is no such channel"),
        (f"[states.new]\n{STATE}channels.email = {CAPS}", "can only be stricter than channels.email"),
        ("[holdout]\nalways = ['u']\nnever = ['u']", "both name u"),
        ("[holdout]\nsalt = 'exploration'", "the salt 'exploration' is there twice"),
        (f"[channels]\npush.caps = {CAPS}\n' Push'.caps = {CAPS}", "the channel 'push' is there twice"),
        (LAYER.format(share="0.6", changed="novelty = 1"), "take 1.2 of the users together"),
        (
            LAYER.format(share="0.5", changed="novelti = 1"),
            "experiment e1, arm b: objectives.retain.novelti = 1: unknown key",
        ),
        (LAYER.format(share="0.5", changed="novelty = -1"), "arm b: objectives.retain.novelty = -1"),
    ],
)
def test_a_policy_that_is_wrong_is_refused_and_the_key_named(text: str, told: str) -> None:
    with pytest.raises(LongtailError) as refused:
        parse(text, where="policy.toml")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            LAYER.format(share="0.5", changed="").replace('{name = "a"}', '{name = "a", weight = 0}'),
            ["layers.0.experiments.0.arms.0.weight = 0: ", "layers.0.experiments.1.arms.0.weight = 0: "],
        ),
        ("[states.new]\nobjective = 'explore'\nexploration_rate = 0\nsources = []", ["states.new.sources = []: "]),
        ("[channels.fax]", ["channels.fax.caps is missing"]),
    ],
)
def test_what_is_wrong_in_a_policy_is_told_once_and_nothing_else(text: str, told: list[str]) -> None:
    with pytest.raises(LongtailError) as refused:
        parse(text, where="policy.toml")
    problems = str(refused.value).removeprefix("policy.toml: ").split("; ")[:-1]
    assert len(problems) == len(told)
    assert all(problem.startswith(start) for problem, start in zip(problems, told, strict=True))


def test_a_policy_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(LongtailError, match="cannot be read"):
        PolicyBook(tmp_path / "none.toml")


def test_the_version_changes_with_the_content_and_not_with_the_layout() -> None:
    text = SHIPPED.read_text()
    version = parse(text, where="").version
    assert version.startswith("activation@")
    assert parse("# another comment\n" + text, where="").version == version
    assert parse(text.replace("pool = 50", "pool = 51"), where="").version != version


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


def test_a_worker_that_starts_while_the_file_is_broken_decides_as_the_others_do(tmp_path: Path) -> None:
    path, in_force = tmp_path / "policy.toml", tmp_path / "shared.json"
    path.write_text("unknown = 1")
    with pytest.raises(LongtailError, match="unknown key"):
        PolicyBook(path, in_force=in_force)  # nobody decides yet
    path.write_text('name = "first"')
    other = PolicyBook(path, in_force=in_force)
    path.write_text('name = "second"')
    assert other.reload()
    path.write_text('name = "third"\nunknown = 1')
    late = PolicyBook(path, in_force=in_force)
    assert late.policy.version == other.policy.version
    path.write_text('name = "the fourth"')
    assert late.reload_if_touched()
    assert late.policy.name == "the fourth"
    with pytest.raises(LongtailError, match="cannot be read"):
        PolicyBook(tmp_path / "none.toml")  # a gateway of its own


def test_each_policy_is_kept_before_it_decides(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('name = "one"')
    book = PolicyBook(path, archive=tmp_path / "kept")
    first = book.policy
    path.write_text('name = "second"')
    assert book.reload()
    assert from_archive(tmp_path / "kept", first.version) == first
    assert from_archive(tmp_path / "kept", book.policy.version) == book.policy
    with pytest.raises(LongtailError, match="is not kept"):
        from_archive(tmp_path / "kept", "other@123")


def test_a_policy_kept_by_an_older_longtail_means_what_it_did(tmp_path: Path) -> None:
    document = Policy().model_dump(mode="json")
    for objective in document["objectives"].values():
        del objective["novelty_share"]
    text = json.dumps(document)
    version = version_of("activation", text)
    path = tmp_path / f"{version.rpartition('@')[2]}.json"
    path.write_text(text)
    assert from_archive(tmp_path, version).objectives.activate.novelty_share == 1.0
    path.write_text(text.replace("0.05", "0.06"))
    with pytest.raises(LongtailError, match="changed after it decided"):
        from_archive(tmp_path, version)


def test_an_experiment_changed_while_running_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(LAYER.format(share="0.5", changed="novelty = 1"))
    book = PolicyBook(path)
    path.write_text(LAYER.format(share="0.5", changed="novelty = 2"))
    assert book.reload()
    assert "experiment e1 changed while running" in caplog.text
    assert "experiment e2" not in caplog.text
