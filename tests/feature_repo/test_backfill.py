"""A backfill is a build of every moment: equal to each, resumable, readable by Feast, and beside what is served."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, FileSource
from typer.testing import CliRunner, Result

from cli.main import app
from feature_repo.contract import ITEM_STATS, USER_ACTIVITY, USER_BEHAVIOR, View
from feature_repo.definitions import ITEM, USER, feature_view
from feature_repo.layout import StateDir
from feature_repo.locks import exclusive
from feature_repo.log.event_log import EventLog
from feature_repo.privacy.erasure import erase_user
from feature_repo.settings import FeatureSettings
from feature_repo.tables.backfill import Moment, Range, backfill, table_file
from feature_repo.tables.build import BUILT, build, offline_file
from feature_repo.tabular import DataError
from tests.feature_repo.test_incremental import describe, import_as
from tests.feature_repo.test_skew import visits
from tests.feature_repo.world import NOW, event

SETTINGS = FeatureSettings(build_threads=1)
DAY = timedelta(days=1)


def world(folder: Path) -> StateDir:
    """Half imported, half recorded; the first event is 5 days and 3 hours before NOW."""
    state = StateDir(folder / "state")
    log = [*visits(20, 5, seed=3), event("first", event_time=NOW - 5 * DAY - timedelta(hours=3))]
    describe(state)
    import_as(state, "log", log[::2])
    EventLog(state.events).append(log[1::2])
    return state


def run(
    state: StateDir, days: Sequence[int], wanted: Sequence[View] = (USER_ACTIVITY,), **settings: Any
) -> list[Moment]:
    """From so many days before NOW to so many."""
    asked = Range(first=NOW - days[0] * DAY, last=NOW - days[1] * DAY, every=DAY)
    changed = SETTINGS.model_copy(update=settings)
    return list(backfill(state, changed, asked, state.root / "past", now=NOW, wanted=wanted))


def computed(moments: Sequence[Moment]) -> list[int]:
    """How many days before NOW."""
    return [(NOW - moment.as_of).days for moment in moments if moment.rows]


def test_a_moment_is_what_a_build_as_of_it_gives_and_what_is_served_stays(tmp_path: Path) -> None:
    state = world(tmp_path)
    build(state, SETTINGS, as_of=NOW - 2 * DAY)
    before = {file: file.read_bytes() for file in state.features.rglob("*") if file.is_file()}
    (moment,) = run(state, [2, 2], BUILT)
    assert {file: file.read_bytes() for file in state.features.rglob("*") if file.is_file()} == before
    assert set(moment.rows) == {view.name for view in BUILT}
    for view in BUILT:
        made = pq.ParquetFile(table_file(state.root / "past", view, moment.as_of)).read()
        assert made.equals(pq.read_table(offline_file(state, view))), view.name
        assert made.num_rows == moment.rows[view.name]


def test_moments_before_the_first_event_have_no_table(tmp_path: Path) -> None:
    moments = run(world(tmp_path), [7, 4])
    assert [moment.is_before_all for moment in moments] == [True, True, False, False]
    assert computed(moments) == [5, 4]


def test_what_was_finished_before_a_kill_is_kept_and_the_rest_follows(tmp_path: Path) -> None:
    state = world(tmp_path)
    asked = Range(first=NOW - 3 * DAY, last=NOW - DAY, every=DAY)
    killed = backfill(state, SETTINGS, asked, state.root / "past", now=NOW, wanted=[USER_ACTIVITY])
    next(killed)
    killed.close()
    torn = table_file(state.root / "past", USER_ACTIVITY, NOW - 2 * DAY)  # in place, and not vouched for yet
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"PAR1")
    assert computed(run(state, [3, 1])) == [2, 1]
    assert computed(run(state, [3, 1])) == []
    assert computed(run(state, [4, 1])) == [4]


def test_only_what_changed_since_is_computed_anew(tmp_path: Path) -> None:
    state = world(tmp_path)
    run(state, [3, 1])
    EventLog(state.events).append([event("late", user_id="u1", event_time=NOW - 3 * DAY)])
    moments = run(state, [3, 1])
    assert computed(moments) == [2, 1], "an event counts from just after it"
    assert [moment.because for moment in moments] == ["", "late events came", "late events came"]
    import_as(state, "more", [event("later", user_id="u2", event_time=NOW - 1.5 * DAY)])
    assert computed(run(state, [3, 1])) == [1]
    table_file(state.root / "past", USER_ACTIVITY, NOW - 2 * DAY).unlink()
    assert computed(run(state, [3, 1])) == [2]
    (changed,) = run(state, [3, 3], default_event_weight=2.0)
    assert changed.because.startswith("settings of features")
    erase_user(state, SETTINGS, "u1", now=NOW)
    assert computed(run(state, [2, 2])) == [2]
    users = pq.ParquetFile(table_file(state.root / "past", USER_ACTIVITY, NOW - 2 * DAY)).read()["user_id"]
    assert "u1" not in users.to_pylist()


def test_feast_joins_the_moment_before_each_row(tmp_path: Path) -> None:
    state, views = world(tmp_path), (USER_BEHAVIOR, ITEM_STATS)
    early, late = (moment.as_of for moment in run(state, [3, 2], views))
    company = tmp_path / "company"
    company.mkdir()
    config: dict[str, object] = {"project": "company", "provider": "local", "registry": "registry.db"}
    config |= {"offline_store": {"type": "duckdb"}, "entity_key_serialization_version": 3}
    (company / "feature_store.yaml").write_text(json.dumps(config))
    store = FeatureStore(repo_path=str(company))

    def source(view: View) -> FileSource:
        path = f"{state.root}/past/{view.name}/*/rows.parquet"
        return FileSource(name=view.name, path=path, timestamp_field="event_timestamp")

    store.apply([USER, ITEM, *(feature_view(view, source(view)) for view in views)])
    users = pq.ParquetFile(table_file(state.root / "past", USER_BEHAVIOR, early)).read()["user_id"].to_pylist()
    asked = [(users[0], "i1", 71, early), (users[0], "i2", 47, late), (users[-1], "i1", 1, late)]  # hours before NOW
    rows = pd.DataFrame(
        [{"user_id": u, "item_id": i, "event_timestamp": NOW - timedelta(hours=h)} for u, i, h, _ in asked]
    )
    names = ["user_behavior:history_gaps_s", "user_behavior:counts_7d", "item_stats:engagements"]
    found = store.get_historical_features(rows, names, full_feature_names=True).to_df()
    joined = {row["event_timestamp"]: row for row in found.to_dict("records")}
    for user, item, hours, as_of in asked:
        theirs = joined[NOW - timedelta(hours=hours)]
        behavior, stats = row_of(state, USER_BEHAVIOR, user, as_of), row_of(state, ITEM_STATS, item, as_of)
        assert list(theirs["user_behavior__history_gaps_s"]) == behavior["history_gaps_s"]
        assert list(theirs["user_behavior__counts_7d"]) == behavior["counts_7d"]
        assert theirs["item_stats__engagements"] == stats["engagements"]


def row_of(state: StateDir, view: View, key: str, as_of: datetime) -> dict[str, Any]:
    rows: list[dict[str, Any]] = pq.ParquetFile(table_file(state.root / "past", view, as_of)).read().to_pylist()
    return next(row for row in rows if row[view.entity] == key)


@pytest.mark.parametrize(
    ("first", "last", "every", "says"),
    [
        (1, 2, DAY, "ends before it begins: from 20260228T120000Z to 20260227T120000Z; swap"),
        (1, -1, DAY, "ends at 20260302T120000Z, after now"),
        (2, 1, timedelta(0), "every 0 s is too often"),
        (2, 1, -DAY, "every -86400 s is too often"),
        (9, 1, timedelta(seconds=1), "these are 691201 moments, .* at most 10000"),
        (90, 80, DAY, "no event is before 2025.*, the last moment; the first is of 20260224T090000Z"),
    ],
)
def test_a_range_that_makes_no_sense_is_explained(
    first: int, last: int, every: timedelta, says: str, tmp_path: Path
) -> None:
    state = StateDir(tmp_path)
    EventLog(state.events).append([event(event_time=NOW - 5 * DAY - timedelta(hours=3))])
    asked = Range(first=NOW - first * DAY, last=NOW - last * DAY, every=every)
    with pytest.raises(DataError, match=says):
        next(backfill(state, SETTINGS, asked, tmp_path / "past", now=NOW))
    assert not (tmp_path / "past").exists()


def test_a_folder_that_cannot_be_is_explained(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    asked = Range(first=NOW - DAY, last=NOW, every=DAY)

    def start(out: Path) -> None:
        next(backfill(state, SETTINGS, asked, out, now=NOW))

    with pytest.raises(DataError, match="is empty; fill it"):
        start(tmp_path / "past")
    EventLog(state.events).append([event(event_time=NOW - 2 * DAY)])
    with pytest.raises(DataError, match="among the tables that are served"):
        start(state.features / "past")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write to .*file"):
        start(tmp_path / "file")
    with (
        exclusive(tmp_path / "past/.backfill/lock", lambda _: AssertionError()),
        pytest.raises(DataError, match="another backfill into this folder is at work"),
    ):
        start(tmp_path / "past")


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    state = world(tmp_path)

    def command(*words: str) -> Result:
        base = ["--state-dir", str(state.root), "features", "backfill", "--out", str(tmp_path / "past")]
        return CliRunner().invoke(app, [*base, *words])

    some = ["--from", "2026-02-23", "--to", "2026-02-26", "--every", "24h", "--view", "user_contacts"]
    done = command(*some)
    assert done.exit_code == 0, done.output
    assert "4 moments: 2 computed, 0 kept as they were, 2 before the first event" in done.output
    assert "2026-02-26 00:00:00 UTC: user_contacts" in done.output
    assert "4 moments: 0 computed, 2 kept as they were" in command(*some).output
    for wrong, says in (
        (["--from", "soon", "--to", "2026-02-26"], "give ISO"),
        (["--from", "2026-02-23", "--to", "2026-02-26", "--every", "often"], "give a number and d, h, min or s"),
        (["--from", "2026-02-23", "--to", "2026-02-26", "--view", "user_weights"], "give any of user_behavior"),
    ):
        refused = command(*wrong)
        assert refused.exit_code == 2
        assert says in " ".join(refused.output.replace("│", " ").split())
