"""The gate lets good tables pass, and names what is wrong with others."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from typer.testing import CliRunner

from cli.main import app
from feature_repo.checks.drift import psi
from feature_repo.checks.quality import QualityError, gate, remember, validate
from feature_repo.contract import ALIGNED, PLACES, USER_ACTIVITY, USER_BEHAVIOR, VIEWS, View, view
from feature_repo.events import Event
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.settings import FeatureSettings, QualitySettings
from feature_repo.tables.build import build, offline_file
from tests.feature_repo.world import NOW, event, logs

LIMITS = QualitySettings()


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path)
    rng = np.random.default_rng(0)
    kinds = ["view", "purchase", "exposure"]
    EventLog(state.events).append(
        [
            event(
                f"e{n}",
                user_id=f"u{n % 120}",
                item_id=f"i{n % 7}",
                event_type=kinds[n % 3],
                event_time=NOW - timedelta(days=float(rng.exponential(30)) + 0.1),
            )
            for n in range(400)
        ]
    )
    build(state, FeatureSettings(build_threads=1), as_of=NOW)
    return state


def change(state: StateDir, table: View, column: str, how: Callable[[list[Any]], list[Any]]) -> None:
    file = offline_file(state, table)
    rows = pq.read_table(file)
    place = rows.schema.get_field_index(column)
    cells = pa.array(how(rows[column].to_pylist()), rows.schema.field(place).type)
    pq.write_table(rows.set_column(place, column, cells), file)


def test_what_a_build_makes_holds(state: StateDir) -> None:
    found = validate(state, LIMITS)
    assert (found.broken, found.drifted) == ((), ())
    assert all(table.rules >= 4 and table.rows for table in found.tables)
    assert json.loads((state.features / ".build/quality.json").read_text())["broken"] == []


@given(log=logs())
@settings(max_examples=5, deadline=None)
def test_what_any_log_makes_holds(log: list[Event], tmp_path_factory: pytest.TempPathFactory) -> None:
    state = StateDir(tmp_path_factory.mktemp("any"))
    EventLog(state.events).append([event("first", event_time=NOW - timedelta(days=300)), *log])
    build(state, FeatureSettings(build_threads=1), as_of=NOW)
    assert validate(state, LIMITS).broken == ()


@pytest.mark.parametrize(
    ("table", "column", "how", "says"),
    [
        ("user_activity", "p_alive", lambda v: [1.5, float("nan"), *v[2:]], "p_alive: must be from 0 to 1; 2 of 120"),
        ("user_activity", "p_alive", lambda v: [float("inf"), *v[1:]], "p_alive: must be a number; 1 of 120"),
        ("user_activity", "events", lambda v: [-1, *v[1:]], "events: must not be negative; 1 of 120"),
        ("user_activity", "last_seen_unix_s", lambda v: [2**40, *v[1:]], "must not be later than the row's time"),
        ("user_activity", "state", lambda v: ["asleep", *v[1:]], "state: must be one of new, active"),
        ("user_activity", "user_id", lambda v: [v[1], *v[1:]], "user_id: must be in one row only; 2 of 120"),
        ("user_activity", "user_id", lambda v: ["", *v[1:]], "user_id: must be there; 1 of 120"),
        ("user_behavior", "counts_7d", lambda v: [[9, 9, 9, 9], *v[1:]], "must be as long as those beside it"),
        ("user_behavior", "history_gaps_s", lambda v: [[-gap for gap in x] for x in v], "must be newest first"),
        ("user_behavior", "history_gaps_s", lambda v: [[2**40 for _ in x] for x in v], "later than the row's time"),
        ("user_behavior", "history_type_places", lambda v: [[9] * len(x) for x in v], "must be places in count_event"),
        ("user_behavior", "affinity_shares", lambda v: [[1.2]] * len(v), "affinity_shares: must be from 0 to 1"),
        ("item_stats", "novelty_bits", lambda v: [-1.0, *v[1:]], "novelty_bits: must not be negative"),
        ("item_neighbors", "neighbor_scores", lambda v: [[float("nan")] * len(x) for x in v], "must be a number"),
    ],
)
def test_a_broken_rule_is_named_with_its_rows(
    state: StateDir, table: str, column: str, how: Callable[[list[Any]], list[Any]], says: str
) -> None:
    change(state, view(table), column, how)
    assert says in "\n".join(map(str, validate(state, LIMITS).broken))
    with pytest.raises(QualityError, match=r"rules are broken, the first: .*--accept REASON"):
        gate(state, LIMITS, accept=None, now=NOW)


def _instead(cells: list[Any], _: list[Any]) -> list[Any]:
    return cells


def test_a_list_that_is_too_long_is_named(state: StateDir) -> None:
    long = {"history_item_ids": ["i1"] * 51, "history_type_places": [0] * 51, "history_gaps_s": [1] * 51}
    for column, cells in long.items():
        rest = pq.read_table(offline_file(state, USER_BEHAVIOR))[column].to_pylist()[1:]
        change(state, USER_BEHAVIOR, column, partial(_instead, [cells, *rest]))
    assert "must have at most 50 entries; 1 of 120 rows" in "\n".join(map(str, validate(state, LIMITS).broken))


def test_a_missing_or_mistyped_column_is_named_and_nothing_else_of_the_table(state: StateDir) -> None:
    file = offline_file(state, USER_ACTIVITY)
    rows = pq.read_table(file).drop_columns(["events"])
    place = rows.schema.get_field_index("visits_7d")
    pq.write_table(rows.set_column(place, "visits_7d", rows["visits_7d"].cast(pa.string())), file)
    says = [str(one) for one in validate(state, LIMITS).broken]
    assert says == [
        "user_activity.events: is missing, the contract says int64; build again with this version",
        "user_activity.visits_7d: is string, the contract says int64; build again with this version",
    ]


def test_lost_rows_and_drift_are_told_against_what_was_loaded_last(state: StateDir) -> None:
    remember(state, gate(state, LIMITS, accept=None, now=NOW))
    assert validate(state, LIMITS).drifted == ()
    file = offline_file(state, USER_ACTIVITY)
    rows = pq.read_table(file)
    pq.write_table(rows.slice(0, 20), file)
    assert "user_activity: has 20 rows, the table last loaded had 120; at most 50% may go" in str(
        validate(state, LIMITS).broken[0]
    )
    pq.write_table(rows, file)
    change(state, USER_ACTIVITY, "events", lambda v: [10 * x for x in v])
    change(state, USER_ACTIVITY, "state", lambda v: ["active"] * len(v))
    found = validate(state, LIMITS)
    assert {one.feature for one in found.drifted} == {"events", "state"}
    assert found.broken == ()
    strict = validate(state, QualitySettings(max_psi=0.25))
    assert {one.feature for one in strict.broken} == {"events", "state"}


def test_a_later_build_of_the_same_users_has_not_drifted_by_its_times(state: StateDir) -> None:
    remember(state, gate(state, LIMITS, accept=None, now=NOW))
    build(state, FeatureSettings(build_threads=1), as_of=NOW + timedelta(hours=1))
    assert [str(one) for one in validate(state, LIMITS).drifted if "unix_s" in one.feature] == []


def test_psi_of_a_bin_that_was_empty_is_finite() -> None:
    assert 0 < psi([1.0, 0.0], [0.5, 0.5]) < 10


def test_what_goes_together_stands_in_the_contract() -> None:
    names = {name for one in VIEWS for name in one.feature_names()}
    assert {name for _, group in ALIGNED for name in group} | {*PLACES, *PLACES.values()} <= names


def test_the_command_stops_a_load_and_an_override_is_kept(state: StateDir) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["--state-dir", str(state.root), "features", *words])

    assert run("apply").exit_code == 0
    assert "5 tables" in run("validate").output
    change(state, USER_ACTIVITY, "p_alive", lambda v: [1.5, *v[1:]])
    refused = run("materialize")
    assert isinstance(refused.exception, QualityError)
    assert isinstance(run("validate").exception, QualityError)
    assert not (state.features / ".build/profile.json").exists()
    accepted = run("materialize", "--accept", "known fault of the import")
    assert accepted.exit_code == 0
    assert "p_alive: must be from 0 to 1; 1 of 120 rows are not, such as " in accepted.output
    (entry,) = map(json.loads, (state.features / ".build/accepted.jsonl").read_text().splitlines())
    assert entry["reason"] == "known fault of the import"
    assert entry["broken"][0]["feature"] == "p_alive"
    assert (state.features / ".build/profile.json").exists()


def test_without_tables_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(QualityError, match="run `longtail features build`"):
        validate(StateDir(tmp_path), LIMITS)
