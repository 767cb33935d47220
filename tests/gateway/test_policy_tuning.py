"""How much novelty the ranking can afford."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from feature_repo.decisions.ranked_candidates import COLUMNS
from feature_repo.lifecycle import Lifecycle
from serving.gateway.domain import Objective
from serving.gateway.policy import tuning
from serving.gateway.policy.book import parse
from serving.gateway.policy.document import Policy
from serving.gateway.policy.order import Weighting, arrange
from serving.gateway.policy.tuning import Novelty
from tests.gateway.fakes import scored as scored_as

USERS = 240


def table(*, novelty_costs: bool, seed: int = 0, state: str = "dormant") -> pa.Table:
    """40 candidates a user. The target is among the common ones, or anywhere among the best."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[object]] = {name: [] for name in COLUMNS}
    for user in range(USERS):
        score = np.sort(rng.uniform(0.2, 0.21, 40))[::-1]
        bits = rng.uniform(1, 8, 40)
        target = int(np.argmin(bits)) if novelty_costs else int(np.argmax(bits))
        for item in range(40):
            values = (f"u{user}", state, 0.9, 1, f"i{item}", score[item], bits[item], item == target)
            for name, value in zip(COLUMNS, values, strict=True):
                rows[name].append(value)
    return pa.table(rows)


def tuned(made: pa.Table) -> dict[str, Novelty]:
    lists, chooses = tuning.read(made)
    return tuning.tune(lists.of(chooses), Policy(), {"activate": 0.05, "retain": 0.01})


def test_novelty_that_costs_nothing_is_taken() -> None:
    assert tuned(table(novelty_costs=False))["activate"] == Novelty(max(tuning.WEIGHTS), 1.0)


def test_novelty_that_costs_the_ranking_is_not() -> None:
    found = tuned(table(novelty_costs=True))["activate"]
    assert found.weight == 0 or found.share <= 0.2


def test_where_only_the_first_places_matter_novelty_goes_into_the_others() -> None:
    made = table(novelty_costs=False)
    is_best = np.arange(len(made)) % 40 == 0
    made = made.set_column(made.column_names.index("is_target"), "is_target", pa.array(is_best))
    bits = np.where(is_best, 0.5, made["novelty_bits"].to_numpy())
    found = tuned(made.set_column(made.column_names.index("novelty_bits"), "novelty_bits", pa.array(bits)))["activate"]
    assert found.weight > 0
    assert 0.4 <= found.share < 1


def test_without_users_of_its_states_an_objective_stays() -> None:
    assert tuned(table(novelty_costs=False))["retain"] == tuning.of_objective(Policy(), "retain")


def test_one_half_chooses_and_the_other_judges() -> None:
    lists, chooses = tuning.read(table(novelty_costs=False))
    assert USERS / 3 < chooses.sum() < 2 * USERS / 3
    mine, theirs = lists.of(chooses), lists.of(~chooses)
    assert len(mine.states) + len(theirs.states) == USERS
    assert len(mine.user) + len(theirs.user) == len(lists.user)
    assert set(mine.user.tolist()) == set(range(len(mine.states)))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.55, 1.0])
def test_the_list_is_the_gateways(share: float) -> None:
    lists, _ = tuning.read(table(novelty_costs=True))
    one = lists.of(np.arange(USERS) == 5)
    shown = tuning.show(one, Novelty(0.7, share))
    slate = arrange(
        scored_as(one.score.tolist(), novelty=one.novelty.tolist()),
        weighting=Weighting(relevance=1.0, novelty=0.7 * 0.9, relevance_floor=0.0, novelty_share=share),
        limit=10,
        exploration=None,
    )
    assert shown.item.tolist() == [one.item[position.candidate] for position in slate.positions]


def test_users_without_a_hit_and_short_lists_count() -> None:
    made = table(novelty_costs=True).slice(0, 6)  # six candidates of one user
    lists, _ = tuning.read(made)
    shown = tuning.show(lists, Novelty(0.1, 0.5))
    assert len(shown.item) == 6
    assert 0 <= shown.ndcg[0] <= 1


def test_the_tuned_sections_are_a_policy() -> None:
    changed = tuning.with_novelty(Policy(), {"activate": Novelty(0.8, 0.4), "retain": Novelty(0.15, 1.0)})
    read = parse(tuning.sections(changed), where="tuned")
    assert read.objectives == changed.objectives
    assert read.objective(Objective.AUTO, Lifecycle.DORMANT).novelty_share == 0.4


def test_the_command_writes_weights_and_says_what_they_do(tmp_path: Path) -> None:
    file, out = tmp_path / "c.parquet", tmp_path / "weights.toml"
    pq.write_table(table(novelty_costs=False), file)
    ended = CliRunner().invoke(app, ["policy", "tune", str(file), "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    assert "→ 2 in 100%" in ended.output
    written = tomllib.loads(out.read_text())["objectives"]["activate"]
    assert (written["novelty"], written["novelty_share"]) == (2.0, 1.0)


@pytest.mark.parametrize("made", [None, pa.table({"user_id": ["u"]}), table(novelty_costs=True).slice(0, 0)])
def test_another_file_is_refused(tmp_path: Path, made: pa.Table | None) -> None:
    file = tmp_path / "c.parquet"
    if made is not None:
        pq.write_table(made, file)
    ended = CliRunner().invoke(app, ["policy", "tune", str(file)])
    assert "evaluate --candidates" in str(ended.exception)
