"""`longtail policy`: what is wrong, what differs, and what another policy would have made of the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from feature_repo.errors import LongtailError
from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.policy.book import SHIPPED
from serving.gateway.policy.difference import Change, changes
from serving.gateway.policy.document import Policy
from tests.gateway.conftest import Start
from tests.gateway.fakes import World
from tests.gateway.test_experiments import TWO_LAYERS
from tests.gateway.test_replay import open_log


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_shipped_policy_and_one_with_experiments_are_fine(tmp_path: Path) -> None:
    assert "fine" in run("policy", "validate", "shipped")
    path = tmp_path / "policy.toml"
    path.write_text(TWO_LAYERS.format(rate=0.0))
    assert "experiment arms" in run("policy", "validate", str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("noveltie = 1", "noveltie = 1: unknown key"),
        ("[contacts.caps]\ncontacts_1d = 5\ncontacts_7d = 2\ncontacts_30d = 8\nspacing_h = 1", "contacts.caps"),
        ("[", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(LongtailError, match=said):
        run("policy", "validate", str(path))
    with pytest.raises(LongtailError, match="cannot be read"):
        run("policy", "validate", str(tmp_path / "none.toml"))


def test_only_what_differs_is_shown(tmp_path: Path) -> None:
    assert changes(Policy(), Policy()) == []
    path = tmp_path / "draft.toml"
    path.write_text(SHIPPED.read_text().replace("assumed_effect = 0.05", "assumed_effect = 0.1"))
    assert run("policy", "diff", "shipped", str(path)) == "contacts.assumed_effect: 0.05 → 0.1\n"
    told = json.loads(run("policy", "diff", "shipped", str(path), "--json"))
    assert told == [{"key": "contacts.assumed_effect", "before": 0.05, "after": 0.1}]
    assert run("policy", "diff", "shipped", "shipped") == "they say the same\n"


def test_arms_are_compared_by_name() -> None:

    def policy(*arms: tuple[str, int]) -> Policy:
        given = [{"name": name, "weight": weight} for name, weight in arms]
        layer = {"name": "l", "salt": "s", "experiments": [{"name": "e", "arms": given}]}
        return Policy.model_validate({"layers": [layer]})

    assert changes(policy(("control", 1), ("novel", 2)), policy(("novel", 3), ("control", 1))) == [
        Change(key="layers[l].experiments[e].arms[novel].weight", before=2, after=3)
    ]


async def test_another_policy_makes_other_lists_of_the_same_log(start: Start, world: World, tmp_path: Path) -> None:
    world.model.scores = {f"i{place:02}": 0.9 - place / 100 for place in range(40)}
    log = open_log(tmp_path / "decisions")
    world.decisions = log  # type: ignore[assignment]
    running = await start(world)
    for user in ("active", "dormant", "casual") * 3:
        await running.activation.RankItems(pb.RankItemsRequest(user_id=user, limit=5))
    log.close()
    draft = tmp_path / "draft.toml"
    draft.write_text("[objectives.activate]\nrelevance = 0.0\nnovelty = 5.0\n")
    arguments = ("policy", "simulate", "shipped", "--decisions", str(tmp_path / "decisions"))
    same = json.loads(run(*arguments, "shipped", "--json"))
    assert (same["all"]["lists"], same["all"]["changed"], same["all"]["kept"]) == (9, 0, 1)
    other = json.loads(run(*arguments, str(draft), "--json"))
    assert other["active"]["changed"] == 0
    assert other["dormant"]["after"]["novelty"] > other["dormant"]["before"]["novelty"]
    assert other["dormant"]["after"]["relevance"] < other["dormant"]["before"]["relevance"]
    assert "dormant" in run(*arguments, str(draft), "--last", "3")


def test_a_log_without_decisions_says_so(tmp_path: Path) -> None:
    with pytest.raises(LongtailError, match="no decision with candidates"):
        run("policy", "simulate", "shipped", "shipped", "--decisions", str(tmp_path))
