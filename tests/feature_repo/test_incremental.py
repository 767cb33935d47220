"""An incremental build is a full one, only cheaper; and where it cannot be, it is a full one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from feature_repo.contract import ITEM_NEIGHBORS, USER_ACTIVITY, USER_BEHAVIOR
from feature_repo.events import Event
from feature_repo.layout import StateDir
from feature_repo.log.catalogue import catalogue_file
from feature_repo.log.event_log import EventLog
from feature_repo.privacy.erasure import erase_user
from feature_repo.privacy.retention import prune
from feature_repo.settings import FeatureSettings
from feature_repo.tables.build import BUILT, BuildSummary, build, offline_file, one_build
from feature_repo.tables.facts import ITEM_FACTS
from feature_repo.tables.incremental import build_incremental
from feature_repo.tabular import DataError
from tests.feature_repo.world import NOW, event

SETTINGS = FeatureSettings(build_threads=1, neighbors_every_days=0)
TIMES = pa.timestamp("us", "UTC")


def import_as(state: StateDir, source: str, events: Sequence[Event]) -> None:
    """One file of the log, free of duplicates as an import is."""
    state.events.mkdir(parents=True, exist_ok=True)
    columns = {name: [getattr(each, name) for each in events] for name in asdict(event())}
    types = {"event_time": TIMES, "value": pa.float64()}
    arrays = {name: pa.array(values, types.get(name, pa.string())) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), state.events / f"{source}.parquet")


def describe(state: StateDir) -> None:
    """A catalogue with an item that nobody touched."""
    ids = [f"i{number}" for number in range(1, 8)]
    columns = {
        "item_id": ids,
        "title": [f"Title {name}" for name in ids],
        "category": ["a"] * 7,
        "categories": [["a"], ["b"], ["a", "b"], [], ["c"], ["c"], ["a"]],
        "text": ["some words"] * 7,
        "price": pa.array([1.5] * 7, pa.float32()),
        "withdrawn": [False] * 7,
    }
    state.items.mkdir(parents=True)
    pq.write_table(pa.table(columns), catalogue_file(state))


def assert_equals_a_full_build(state: StateDir, as_of: datetime, given_settings: FeatureSettings = SETTINGS) -> None:
    with tempfile.TemporaryDirectory() as folder:
        anew = StateDir(Path(folder))
        for source, target in ((state.events, anew.events), (state.items, anew.items)):
            if source.exists():
                shutil.copytree(source, target)
        build(anew, given_settings, as_of=as_of)
        for view in (*BUILT, ITEM_FACTS):
            ours, expected = (pq.read_table(offline_file(each, view)) for each in (state, anew))
            assert (ours.schema.names, ours.schema.types) == (expected.schema.names, expected.schema.types)
            assert ours.equals(expected.cast(ours.schema)), view.name  # may differ in which columns can be null


@st.composite
def arrivals(draw: st.DrawFn) -> list[Event]:
    """A few events of few users, from long ago to the near future; some have ids that others had."""
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, 30),
                st.integers(1, 4),
                st.integers(1, 5),
                st.sampled_from(["view", "purchase", "exposure", "return", "contact", "opt_out"]),
                st.sampled_from([-2, -1, 0, 1, 6, 7, 8, 27, 28, 30, 31, 89, 90, 91, 400]),
                st.sampled_from([0, 1, 999_999, 40_000_000]),
            ),
            max_size=8,
            unique_by=lambda row: row[0],
        )
    )
    return [
        Event(
            event_id=f"e{number}",
            user_id=f"u{user}",
            item_id="" if kind in ("contact", "opt_out") else f"i{item}",
            event_type=kind,
            event_time=NOW - timedelta(days=days, microseconds=microseconds),
            surface="push" if kind in ("contact", "opt_out") else "",
        )
        for number, user, item, kind, days, microseconds in rows
    ]


@given(
    first=arrivals(),
    later=st.lists(
        st.tuples(st.sampled_from(["append", "import"]), arrivals(), st.sampled_from([0, 1, 24, 25, 7 * 24, 40 * 24])),
        min_size=1,
        max_size=2,
    ),
)
@settings(max_examples=5, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
def test_it_equals_a_full_build_however_events_arrive(
    first: list[Event], later: list[tuple[str, list[Event], int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state, as_of = StateDir(Path(folder)), NOW
        describe(state)
        import_as(state, "log", [event("first", user_id="u0", event_time=NOW - timedelta(days=50)), *first])
        build_incremental(state, SETTINGS, as_of=as_of)
        for number, (way, events, hours) in enumerate(later):
            if way == "append":
                EventLog(state.events).append(events)
            else:
                import_as(state, f"more-{number}", events)
            as_of += timedelta(hours=hours)
            build_incremental(state, SETTINGS, as_of=as_of)
            assert_equals_a_full_build(state, as_of)


def many(users: int = 40) -> list[Event]:
    """Three visits each, 30 to 3 days ago."""
    return [
        event(
            f"e{user}-{visit}",
            user_id=f"user{user:02}",
            item_id=f"i{(user + visit) % 7}",
            event_type="exposure" if visit == 1 else "view",
            event_time=NOW - timedelta(days=3 + 9 * visit + user % 5, minutes=user),
        )
        for user in range(users)
        for visit in range(3)
    ]


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    """Built."""
    state = StateDir(tmp_path)
    describe(state)
    import_as(state, "log", many())
    build(state, SETTINGS, as_of=NOW)
    return state


def test_it_reads_the_events_of_those_with_news_and_of_nobody_else(state: StateDir) -> None:
    EventLog(state.events).append([event("late", user_id="user07", event_time=NOW - timedelta(days=20))])
    summary = build_incremental(state, SETTINGS, as_of=NOW)
    assert (summary.changed_users, summary.full_because) == (1, "")
    assert_equals_a_full_build(state, NOW)
    assert build_incremental(state, SETTINGS, as_of=NOW + timedelta(seconds=1)).changed_users == 0
    assert_equals_a_full_build(state, NOW + timedelta(seconds=1))


def test_an_event_id_that_was_another_users_first_stays_that_users(state: StateDir) -> None:
    import_as(state, "more", [event("twice", user_id="user01", event_time=NOW - timedelta(days=9))])
    import_as(state, "other", [event("twice", user_id="user07", item_id="i3", event_time=NOW - timedelta(days=5))])
    build(state, SETTINGS, as_of=NOW)
    EventLog(state.events).append([event("new", user_id="user07", event_time=NOW - timedelta(days=1))])
    assert build_incremental(state, SETTINGS, as_of=NOW).changed_users == 1
    assert_equals_a_full_build(state, NOW)


def test_p_alive_is_fitted_on_everyone(state: StateDir) -> None:
    EventLog(state.events).append([event("new", user_id="user07", event_time=NOW)])
    build_incremental(state, SETTINGS, as_of=NOW + timedelta(days=1))
    rows = pq.read_table(offline_file(state, USER_ACTIVITY)).to_pylist()
    assert all(row["p_alive"] is not None for row in rows)
    assert_equals_a_full_build(state, NOW + timedelta(days=1))


def test_without_news_nothing_is_written(state: StateDir) -> None:
    keep = replace_neighbors(SETTINGS, days=1)
    build(state, keep, as_of=NOW)
    before = {file: file.stat().st_mtime_ns for file in state.features.glob("*.parquet")}
    assert build_incremental(state, keep, as_of=NOW).changed_users == 0
    assert {file: file.stat().st_mtime_ns for file in state.features.glob("*.parquet")} == before


def replace_neighbors(given_settings: FeatureSettings, *, days: float) -> FeatureSettings:
    return given_settings.model_copy(update={"neighbors_every_days": days})


def test_neighbours_are_kept_for_a_while_and_then_made_anew(state: StateDir) -> None:
    keep = replace_neighbors(SETTINGS, days=2)
    made = offline_file(state, ITEM_NEIGHBORS).stat().st_mtime_ns
    EventLog(state.events).append([event("new", user_id="user07", item_id="i3")])
    build_incremental(state, keep, as_of=NOW + timedelta(days=1))
    assert offline_file(state, ITEM_NEIGHBORS).stat().st_mtime_ns == made
    build_incremental(state, keep, as_of=NOW + timedelta(days=2))
    assert_equals_a_full_build(state, NOW + timedelta(days=2))


def spoil_table(state: StateDir) -> None:
    file = offline_file(state, USER_BEHAVIOR)
    pq.write_table(pq.read_table(file).slice(1), file)


def spoil_watermark(state: StateDir) -> None:
    (state.features / ".build" / "watermark.json").write_text("{")


def replace_import(state: StateDir) -> None:
    import_as(state, "log", many()[:60])


def describe_anew(state: StateDir) -> None:
    file = catalogue_file(state)
    pq.write_table(pq.read_table(file).slice(2), file)


def erase(state: StateDir) -> None:
    erase_user(state, SETTINGS, "user03", now=NOW)


def forget_the_old(state: StateDir) -> None:
    prune(state, FeatureSettings(), days=20, now=NOW)


def take_back(state: StateDir) -> None:
    """The id of an event, at an earlier time."""
    import_as(state, "more", [replace(many()[0], event_time=NOW - timedelta(days=100), user_id="user39")])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_table, "a table is not as the last build left it"),
        (spoil_watermark, "no full build went before"),
        (replace_import, "an import was replaced or removed"),
        (describe_anew, "the catalogue changed"),
        (erase, "not as the last build left it"),
        (forget_the_old, "an import was replaced or removed"),
        (take_back, "the id of a later one"),
    ],
)
def test_what_it_cannot_follow_makes_it_a_full_build_that_says_why(
    state: StateDir, spoil: Callable[[StateDir], None], reason: str
) -> None:
    spoil(state)
    summary = build_incremental(state, SETTINGS, as_of=NOW)
    assert reason in summary.full_because
    assert summary.changed_users is None
    assert_equals_a_full_build(state, NOW)
    assert build_incremental(state, SETTINGS, as_of=NOW).full_because == ""


def test_an_earlier_moment_other_settings_and_erased_feedback_are_built_in_full(state: StateDir) -> None:
    assert "later moment" in build_incremental(state, SETTINGS, as_of=NOW - timedelta(days=1)).full_because
    other = SETTINGS.model_copy(update={"event_weights": {**SETTINGS.event_weights, "view": 2.0}})
    assert "settings" in build_incremental(state, other, as_of=NOW).full_because
    log = EventLog(state.events)
    log.append([event("new", user_id="user07"), event("other", user_id="user08")])
    build_incremental(state, other, as_of=NOW)
    log.erase("user07")
    assert "erased or pruned" in build_incremental(state, other, as_of=NOW).full_because
    assert_equals_a_full_build(state, NOW, other)


@pytest.mark.parametrize("killed_at", range(6))
def test_a_build_that_was_killed_is_made_good(state: StateDir, killed_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the file of that number is put in its place."""
    EventLog(state.events).append([event("late", user_id="user07", event_time=NOW - timedelta(days=20))])
    left, put = [killed_at], Path.replace

    def die(file: Path, target: Path) -> Path:
        if target.suffix == ".parquet":
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        return put(file, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", die)
        build_incremental(state, SETTINGS, as_of=NOW)
    build_incremental(state, SETTINGS, as_of=NOW)
    assert_equals_a_full_build(state, NOW)


def test_one_build_at_a_time_and_no_erasure_beside_it(state: StateDir) -> None:
    attempts: list[Callable[[], BuildSummary | object]] = [
        lambda: build(state, SETTINGS, as_of=NOW),
        lambda: build_incremental(state, SETTINGS, as_of=NOW),
        lambda: erase_user(state, SETTINGS, "user03", now=NOW),
    ]
    for attempt in attempts:
        with one_build(state), pytest.raises(DataError, match=r"another build of features is at work \(process \d+\)"):
            attempt()
