"""Serving's rows are what the log gives for the same moment, and where they are not it is told of which user."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from feature_repo.checks.recount import BUILT_ONLY, recount_build
from feature_repo.checks.skew import MODEL_INPUT, SkewReport, measure
from feature_repo.checks.skew_items import measure_items
from feature_repo.checks.skew_tally import FeatureSkew
from feature_repo.contract import (
    ITEM_NEIGHBORS,
    ITEM_STATS,
    MODEL_USER_FEATURES,
    USER_ACTIVITY,
    USER_BEHAVIOR,
    USER_CONTACTS,
    View,
)
from feature_repo.errors import LongtailError
from feature_repo.events import CONTACT_TYPES, Event
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.online.materialize import materialize
from feature_repo.online.rows import Row, as_batch, online_of
from feature_repo.online.store import apply, open_store
from feature_repo.settings import FeatureSettings
from feature_repo.tables.build import build
from feature_repo.tabular import DataError, silent
from tests.feature_repo.conftest import Installation
from tests.feature_repo.test_features import drain
from tests.feature_repo.test_incremental import describe, import_as
from tests.feature_repo.world import NOW, event

LATER = NOW + timedelta(minutes=5)
KINDS = ("view", "view", "purchase", "exposure", "contact", "opt_out", "return")


def visits(users: int, days: int, seed: int) -> list[Event]:
    """Of many users, up to NOW; many events of one second."""
    random, log = np.random.default_rng(seed), list[Event]()
    for user in range(users):
        for _ in range(random.integers(1, 9)):
            kind = str(random.choice(KINDS))
            age = timedelta(seconds=int(random.integers(0, days * 8)) * 10_800, microseconds=int(random.integers(0, 2)))
            item = "" if kind in CONTACT_TYPES else f"i{random.integers(1, 8)}"
            log.append(
                event(
                    f"{seed}-{len(log)}",
                    user_id=f"u{user}",
                    item_id=item,
                    event_type=kind,
                    event_time=NOW - age,
                    surface="push",
                )
            )
    return log


def serve(installation: Installation, log: list[Event]) -> Any:
    """As an installation is after a night: built, loaded, followed. What was imported stays as the build left it."""
    state, settings = installation.state, installation.settings
    describe(state)
    half = len({each.user_id for each in log}) // 2
    imported = set(sorted({each.user_id for each in log})[:half])
    import_as(state, "log", [each for each in log if each.user_id in imported])
    EventLog(state.events).append([each for each in log if each.user_id not in imported])
    build(state, settings, as_of=NOW)
    apply(state, settings)
    store = open_store(state, settings)
    materialize(state, store)
    drain(installation, NOW)
    return store


def simple(tmp_path: Path, *more: Event) -> tuple[Installation, Any]:
    installation = Installation(state=StateDir(tmp_path), settings=FeatureSettings())
    return installation, serve(installation, [event("a"), event("b", user_id="u2", event_type="purchase"), *more])


def ask(installation: Installation, store: Any, **asked: Any) -> SkewReport:
    return measure(installation.state, installation.settings, store, **asked)


def skewed(report: SkewReport) -> dict[str, FeatureSkew]:
    return {f"{one.view}.{one.feature}": one for one in report.skewed}


def test_rows_of_a_build_and_streamed_ones_are_what_the_log_gives(installation: Installation) -> None:
    store = serve(installation, visits(40, 120, seed=1))
    late = [each for each in visits(50, 40, seed=2) if int(each.user_id[1:]) > 24]
    EventLog(installation.state.events).append([*late, event("now", event_time=NOW, user_id="fresh")])
    drain(installation, LATER)
    found = ask(installation, store)
    assert not found.skewed, skewed(found)
    assert (found.waiting, found.moved, found.notes) == (0, 0, ())
    assert {one.compared for one in found.features} == {found.asked}
    times = online_of(store).times(USER_ACTIVITY, [f"u{user}" for user in range(40)])
    assert len(set(times.tolist())) == 3, "by the build, by the worker's first look, and streamed"
    views = (USER_BEHAVIOR, USER_ACTIVITY, USER_CONTACTS)
    assert {f"{one.view}.{one.feature}" for one in found.features} == {
        *(f"{view.name}.{name}" for view in views for name in view.feature_names()),
        *(f"{MODEL_INPUT}.{name}" for name in MODEL_USER_FEATURES),
    }


def test_items_of_a_build_and_streamed_ones_are_what_the_log_gives(installation: Installation) -> None:
    store = serve(installation, visits(40, 120, seed=1))
    late = [each for each in visits(50, 40, seed=2) if int(each.user_id[1:]) > 24]
    EventLog(installation.state.events).append([*late, event("now", event_time=NOW, item_id="fresh")])
    drain(installation, LATER)
    found = measure_items(installation.state, installation.settings, store)
    assert not found.skewed, skewed(found)
    assert (found.asked, found.waiting, found.moved, found.notes) == (8, 0, 0, ())
    names = [(one.view, one.feature) for one in found.features]
    assert sorted(names) == sorted(
        (view.name, name) for view in (ITEM_STATS, ITEM_NEIGHBORS) for name in view.defaults()
    )
    assert {one.compared for one in found.features if one.view == "item_stats"} == {8}


def test_an_item_that_is_wrong_or_missing_online_is_found(tmp_path: Path) -> None:
    installation, store = simple(tmp_path, event("c", item_id="i2"))
    EventLog(installation.state.events).append([event("late", item_id="i2", event_time=NOW - timedelta(days=3))])
    overwrite(store, ITEM_STATS, "i1", popularity_percentile=0.25)
    online = online_of(store)
    online.erase("item_id", "i2")
    online.close()
    found = skewed(measure_items(installation.state, installation.settings, store, items=["i1", "i2", "nothing"]))
    assert (found["item_stats.engagements"].compared, found["item_stats.engagements"].missing_online) == (2, 1)
    assert found["item_stats.popularity_percentile"].examples[0].served == 0.25
    assert found["item_neighbors.neighbor_item_ids"].missing_online == 1
    assert "user_activity.events" not in found
    done = command(tmp_path, "--item", "i1")
    assert "popularity_percentile: 1 compared, 0 equal, 1 different" in done.output
    assert "such as item i1 at" in done.output
    assert "1 items: 0 came after" in done.output
    assert "user_activity" not in done.output


def overwrite(store: Any, view: View, entity_id: str, **broken: Any) -> None:
    online = online_of(store)
    (row,) = online.read(view, [entity_id])
    assert row is not None
    online.load(
        view, as_batch(view, [Row(entity_id=entity_id, event_time=row.event_time, values={**row.values, **broken})])
    )
    online.close()


def test_what_is_wrong_or_missing_online_is_found_with_its_user(tmp_path: Path) -> None:
    installation, store = simple(tmp_path, event("c", user_id="u3"))
    overwrite(store, USER_ACTIVITY, "u2", visits_7d=4, mean_gap_days=2.0, tail_percentile=0.9)
    overwrite(store, USER_BEHAVIOR, "u1", history_item_ids=["i2"])
    online = online_of(store)
    online.erase("user_id", "u3")
    values = USER_ACTIVITY.defaults()
    online.load(USER_ACTIVITY, as_batch(USER_ACTIVITY, [Row(entity_id="ghost", event_time=NOW, values=values)]))
    online.close()
    found = skewed(ask(installation, store, users=["u1", "u2", "u3", "ghost", "nobody"]))
    visits = found["user_activity.visits_7d"]
    assert (visits.compared, visits.equal, visits.different, visits.largest) == (4, 1, 1, 3)
    assert (visits.missing_online, visits.missing_offline) == (1, 1), "u3 was lost, and ghost never did anything"
    largest = visits.examples[0]
    assert (largest.entity_id, largest.served, largest.offline) == ("u2", 4, 1)
    assert {name for name, one in found.items() if one.different} == {
        "user_behavior.history_item_ids",
        "user_activity.visits_7d",
        "user_activity.tail_percentile",
        "user_features.visits_7d",
    }
    assert found["user_activity.mean_gap_days"].missing_offline == 1
    done = command(tmp_path)
    assert done.exit_code == 1
    line = "visits_7d: 3 compared, 1 equal, 1 different by up to 3, 1 missing online; such as user u2 at 2026-03-01"
    assert f"{line} 12:00:01: online 4, from the log 1" in done.output
    assert isinstance(done.exception, LongtailError)
    assert "user_activity.tail_percentile, of user u" in str(done.exception)


def command(tmp_path: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["--state-dir", str(tmp_path), "features", "skew", *words])


def test_a_late_event_is_skew_until_it_is_followed_and_a_new_user_waits(tmp_path: Path) -> None:
    installation, store = simple(tmp_path)
    late = event("late", item_id="i3", event_time=NOW - timedelta(days=3))
    EventLog(installation.state.events).append([late, event("hello", user_id="fresh", event_time=NOW)])
    report = ask(installation, store)
    found = skewed(report)
    assert report.waiting == 1
    assert {one.examples[0].entity_id for one in found.values()} == {"u1"}
    assert {"user_behavior.history_item_ids", "user_activity.events", "user_features.log_events"} <= set(found)
    assert not any("affinity" in name or "p_alive" in name for name in found), "the build did not know it"
    drain(installation, LATER)
    done = command(tmp_path, "--user", "u1", "--user", "fresh")
    assert done.exit_code == 0, done.output
    assert "user_activity.events: 2 compared, 2 equal\n" in done.output


def test_columns_of_a_build_that_is_not_online_are_named_and_not_compared(tmp_path: Path) -> None:
    installation, store = simple(tmp_path)
    state, settings = installation.state, installation.settings
    build(state, settings, as_of=LATER)
    found = ask(installation, store)
    assert not found.skewed
    assert "not those loaded last: user_behavior.affinity_categories" in found.notes[0]

    def obstacle(settings: FeatureSettings) -> str:
        return recount_build(state, settings, ["u1"], wanted=BUILT_ONLY, loaded={LATER}, report=silent).obstacle

    assert obstacle(FeatureSettings(default_event_weight=0)) == (
        "settings of features, or the version of longtail, changed since the last build"
    )
    (state.features / ".build/watermark.json").unlink()
    assert obstacle(settings) == "no full build on DuckDB left a watermark"


def test_an_empty_log_is_explained(tmp_path: Path) -> None:
    state, settings = StateDir(tmp_path), FeatureSettings()
    apply(state, settings)
    with pytest.raises(DataError, match="is empty; fill it"):
        measure(state, settings, open_store(state, settings))
