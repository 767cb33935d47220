"""A training set holds what was known before each row's time: equal to a plain recount, and to what Feast joins."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, FileSource
from feast.data_source import DataSource
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli.main import app
from feature_repo.contract import View
from feature_repo.definitions import ITEM, USER, feature_view
from feature_repo.events import Event
from feature_repo.layout import StateDir
from feature_repo.log.catalogue import catalogue_file
from feature_repo.log.event_log import EventLog
from feature_repo.log.pseudonyms import open_pseudonyms
from feature_repo.settings import FeatureSettings, LifecycleSettings
from feature_repo.tables.point_in_time import KNOWN
from feature_repo.tables.training_set import column_name, write_training_set
from feature_repo.tabular import DataError
from tests.feature_repo import reference
from tests.feature_repo.test_incremental import describe, import_as
from tests.feature_repo.world import NOW, event

SETTINGS = FeatureSettings(build_threads=1, neighbor_history=3, lifecycle=LifecycleSettings(new_days=7))
CONTENT = ("content_item_ids", "content_scores")  # of the catalogue alone
ALL = [view.name for view in KNOWN]
Rows = list[dict[str, Any]]


def ask(folder: Path, rows: Rows, name: str = "asked.parquet") -> str:
    types = {"event_timestamp": pa.timestamp("us", "UTC")}
    columns = {key: pa.array([row[key] for row in rows], types.get(key)) for key in rows[0]}
    pq.write_table(pa.table(columns), folder / name)
    return str(folder / name)


def make(state: StateDir, rows: Rows, wanted: Sequence[str] = ALL) -> Rows:
    asked = ask(state.root, rows)
    summary = write_training_set(state, SETTINGS, asked, state.root / "set", wanted=wanted)
    found: Rows = pq.read_table(summary.file).to_pylist()
    return found


def expected(log: Sequence[Event], catalogue: dict[str, dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    """By view and feature, from one row's past."""
    as_of, user, item = row["event_timestamp"], row["user_id"], row["item_id"]
    midnight = datetime(as_of.year, as_of.month, as_of.day, tzinfo=UTC)
    mine = reference.of_user(reference.before(log, as_of), user)
    night = reference.before(log, midnight)
    categories = {name: about["categories"] for name, about in catalogue.items()}
    return {
        "user_behavior": reference.behavior(mine, categories, as_of, SETTINGS),
        "user_activity": reference.activity(mine, as_of, SETTINGS) | reference.nightly(night, user, midnight),
        "user_contacts": reference.contacts(mine, as_of, SETTINGS),
        "item_stats": reference.stats(night, item, catalogue, midnight, SETTINGS),
        "item_neighbors": reference.neighbors(night, item, SETTINGS),
    }


def assert_as_recounted(found: Rows, log: Sequence[Event], state: StateDir, asked: Rows) -> None:
    known: Rows = pq.read_table(catalogue_file(state)).to_pylist()
    catalogue = {row["item_id"]: row for row in known}
    assert [{name: row[name] for name in asked[0]} for row in found] == asked
    for row in found:
        recounted = expected(log, catalogue, row)
        for view in KNOWN:
            features = [name for name in view.feature_names() if name not in CONTENT]
            ours = {name: row[column_name(view, name)] for name in features}
            assert ours == {name: near(value) for name, value in recounted[view.name].items()}, (view.name, row)
            for feature in view.features:
                length = feature.max_length or math.inf
                assert feature.max_length is None or len(row[column_name(view, feature.name)]) <= length


def near(value: Any) -> Any:
    """Floats are kept in single precision."""
    if isinstance(value, float) or (isinstance(value, list) and any(isinstance(each, float) for each in value)):
        return pytest.approx(value, rel=1e-5, abs=1e-6)
    return value


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Event], list[tuple[Event, int]], Rows]:
    """A log, events of it that came again later, and rows: at an event's own time or just after, of strangers too."""
    kinds = ["view", "view", "purchase", "return", "exposure", "exposure", "contact", "opt_out", "opt_in"]
    drawn = draw(
        st.lists(
            st.tuples(
                st.integers(1, 3),
                st.integers(1, 4),
                st.sampled_from(kinds),
                st.sampled_from([0, 1, 2, 4, 28, 29, 112, 120, 121, 360]),
                st.sampled_from([0, 1, 999_999, 40_000_000]),
            ),
            min_size=1,
            max_size=25,
        )
    )
    log = []
    for number, (user, item, kind, quarter_days, microseconds) in enumerate(drawn):
        of_channel = kind in reference.CONTACTS
        log.append(
            event(
                f"e{number}",
                user_id=f"u{user}",
                item_id="" if of_channel else f"i{item}",
                event_type=kind,
                event_time=NOW - timedelta(hours=6 * quarter_days, microseconds=microseconds),
                surface=["", "push", "email"][item % 3] if of_channel else "",
            )
        )
    again = draw(st.lists(st.tuples(st.sampled_from(log), st.integers(0, 90)), max_size=3))
    times = [each.event_time + timedelta(microseconds=delta) for each in log for delta in (0, 1)]
    moments = st.sampled_from(draw(st.permutations([*times, NOW, NOW - timedelta(hours=12)]))[:3])
    rows = st.tuples(st.integers(1, 4), st.integers(1, 9), moments)
    asked = draw(st.lists(rows, min_size=1, max_size=6))
    return log, again, [row(f"u{user}", f"i{item}", at, n) for n, (user, item, at) in enumerate(asked)]


def row(user: str, item: str, at: datetime, label: int) -> dict[str, Any]:
    return {"label": label, "item_id": item, "event_timestamp": at, "user_id": user}


def world(folder: str, log: Sequence[Event], again: Sequence[tuple[Event, int]] = ()) -> StateDir:
    """Half imported, half recorded; what came again has its id and a later time. The catalogue has gaps."""
    state = StateDir(Path(folder))
    describe(state)
    file = catalogue_file(state)
    known = pq.read_table(file)
    holes = {"title": [None, *known["title"].to_pylist()[1:]], "price": [None, *known["price"].to_pylist()[1:]]}
    for name, values in holes.items():
        place = known.schema.get_field_index(name)
        known = known.set_column(place, name, pa.array(values, known.schema.field(name).type))
    pq.write_table(known, file)
    half = len(log) // 2
    EventLog(state.events).append(log[:half][::-1])
    import_as(state, "log", log[half:])
    later = {each.event_id: (each, days) for each, days in again}
    import_as(state, "more", [moved(each, days) for each, days in later.values()])
    return state


def moved(each: Event, days: int) -> Event:
    fields = {name: getattr(each, name) for name in ("user_id", "item_id", "event_type", "surface")}
    return event(each.event_id, event_time=each.event_time + timedelta(days=days), **fields)


@given(world_of=worlds())
@settings(max_examples=6, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
def test_each_row_equals_a_plain_recount_of_the_events_before_it(
    world_of: tuple[list[Event], list[tuple[Event, int]], Rows],
) -> None:
    log, again, asked = world_of
    with tempfile.TemporaryDirectory() as folder:
        state = world(folder, log, again)
        last = max(row["event_timestamp"] for row in asked)
        if not reference.before(log, last):
            with pytest.raises(DataError, match="no event before"):
                make(state, asked)
            return
        assert_as_recounted(make(state, asked), log, state, asked)
        assert_feast_joins_the_same(state)


def files(view: View, path: str) -> DataSource:
    return FileSource(name=view.name, path=path, timestamp_field="event_timestamp")


def assert_feast_joins_the_same(
    state: StateDir,
    views: Sequence[View] = KNOWN,
    source: Callable[[View, str], DataSource] = files,
    offline_store: Mapping[str, Any] = MappingProxyType({"type": "duckdb"}),
) -> None:
    """A registry of its own over the tables beside the training set."""
    folder = state.root / "company"
    folder.mkdir()
    config: dict[str, object] = {"project": "company", "provider": "local", "registry": "registry.db"}
    config |= {"offline_store": dict(offline_store), "entity_key_serialization_version": 3}
    (folder / "feature_store.yaml").write_text(json.dumps(config))
    store = FeatureStore(repo_path=str(folder))
    tables = {view.name: str(state.root / "set" / f"{view.name}.parquet") for view in views}
    store.apply([USER, ITEM, *(feature_view(view, source(view, tables[view.name])) for view in views)])
    ours = pq.read_table(state.root / "set" / "training_set.parquet").to_pandas()
    names = [f"{view.name}:{name}" for view in views for name in view.feature_names()]
    asked = ours[["label", "user_id", "item_id", "event_timestamp"]]
    theirs = store.get_historical_features(asked, names, full_feature_names=True).to_df()
    theirs = theirs.set_index("label").loc[ours["label"]].reset_index()
    for view in views:
        for name in view.feature_names():
            column = column_name(view, name)
            assert [plain(value) for value in theirs[column]] == [plain(value) for value in ours[column]], column


def plain(value: Any) -> Any:
    """Pandas has arrays for lists, and NaN for null."""
    if isinstance(value, list | np.ndarray):
        return list(value)
    return None if value is None or value != value else value


def test_what_depends_on_everyone_is_that_of_the_midnight_before(tmp_path: Path) -> None:
    """Enough users for P(alive), with events of the row's own day that must not count for it."""
    random = np.random.default_rng(5)
    log: list[Event] = []
    for user in range(25):
        at = NOW - timedelta(days=float(random.uniform(30, 90)))
        lost = random.random() < 0.5
        while at < NOW and not (lost and random.random() < 0.3):
            kind = str(random.choice(["view", "exposure"], p=[0.8, 0.2]))
            item = f"i{random.integers(1, 9)}"
            log.append(event(f"e{len(log)}", user_id=f"u{user}", item_id=item, event_type=kind, event_time=at))
            at += timedelta(days=float(random.exponential(4 + user % 5)))
    log += [event(f"today{n}", user_id=f"u{n}", event_time=NOW - timedelta(hours=1)) for n in range(4)]
    state = world(str(tmp_path), log)
    asked = [row(f"u{n}", f"i{n + 1}", NOW - timedelta(days=n % 2), n) for n in range(8)]
    found = make(state, asked)
    assert any(0.01 < (each["user_activity__p_alive"] or 0) < 0.99 for each in found)
    assert_as_recounted(found, log, state, asked)
    assert_feast_joins_the_same(state)


def test_rows_may_have_users_only_and_any_other_columns(tmp_path: Path) -> None:
    state = world(str(tmp_path), [event()])
    asked = [{"user_id": "u1", "event_timestamp": NOW, "history": [1, 2]}] * 2
    found = make(state, asked, wanted=())
    assert [each["history"] for each in found] == [[1, 2]] * 2
    assert found[0]["user_behavior__history_item_ids"] == ["i1"]
    assert not [name for name in found[0] if name.startswith("item_")]


def test_users_are_looked_up_by_their_pseudonyms(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef" * 4)
    names = open_pseudonyms(key)
    assert names is not None
    state = world(str(tmp_path), [event(user_id=names.of("anna"))])
    asked = ask(tmp_path, [{"user_id": "anna", "event_timestamp": NOW}])
    summary = write_training_set(state, SETTINGS, asked, tmp_path / "set", wanted=["user_activity"], pseudonyms=names)
    (found,) = pq.read_table(summary.file).to_pylist()
    assert (found["user_id"], found["user_activity__events"]) == (names.of("anna"), 1)


GOOD = {"user_id": "u1", "event_timestamp": NOW}


@pytest.mark.parametrize(
    ("rows", "wanted", "says"),
    [
        ([GOOD, {"user_id": None, "event_timestamp": NOW}], [], "1 of 2 rows .* have no event_timestamp or user_id"),
        ([{"user_id": "u1", "event_timestamp": None}], [], "1 of 1 rows"),
        ([{"user": "u1", "event_timestamp": NOW}], [], "neither user_id nor item_id; it has user, event_timestamp"),
        ([{"user_id": "u1"}], [], "has no column 'event_timestamp'"),
        ([GOOD], ["item_stats"], "item_stats needs a column item_id"),
        ([GOOD], ["user_weights"], "learnt from the log, the future of your rows included"),
        ([GOOD], ["clicks"], "--view is 'clicks'; give any of user_behavior"),
        ([GOOD | {"user_activity__state": ""}], [], "columns that user_activity makes too: user_activity__state"),
        ([{"user_id": "u1", "event_timestamp": NOW - timedelta(days=900)}], [], "no event before 2023"),
    ],
)
def test_rows_that_cannot_be_joined_are_explained_and_nothing_is_replaced(
    rows: Rows, wanted: list[str], says: str, tmp_path: Path
) -> None:
    state = world(str(tmp_path), [event()])
    with pytest.raises(DataError, match=says):
        write_training_set(state, SETTINGS, ask(tmp_path, rows), tmp_path / "set", wanted=wanted)
    assert not (tmp_path / "set/training_set.parquet").exists()


def test_a_csv_file_and_an_empty_one_are_explained(tmp_path: Path) -> None:
    state = world(str(tmp_path), [event()])
    (tmp_path / "rows.csv").write_text("user_id,event_timestamp\nu1,2026-01-01\n")
    with pytest.raises(DataError, match="is CSV, which has no types; give the rows as Parquet"):
        write_training_set(state, SETTINGS, str(tmp_path / "rows.csv"), tmp_path / "set")
    empty = pa.table({"user_id": pa.array([], pa.string()), "event_timestamp": pa.array([], pa.timestamp("us", "UTC"))})
    pq.write_table(empty, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="has no row"):
        write_training_set(state, SETTINGS, str(tmp_path / "rows.parquet"), tmp_path / "set")


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    world(str(tmp_path), [event()])
    words = ["--state-dir", str(tmp_path), "features", "training-set", ask(tmp_path, [GOOD])]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "set"), "--view", "user_activity"])
    assert result.exit_code == 0, result.output
    assert "1 rows with user_activity" in result.output.replace("\n", " ")
    assert CliRunner().invoke(app, words).exit_code == 2
