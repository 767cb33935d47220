"""One suite for every FeatureReader: the one in memory, Feast on SQLite, Feast on a real Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest

from feature_repo.contract import USER_ACTIVITY, USER_BEHAVIOR, USER_WEIGHTS, Dtype, FeatureValue, View
from feature_repo.definitions import feature_view
from feature_repo.errors import LongtailError
from feature_repo.layout import StateDir
from feature_repo.online import store
from feature_repo.settings import FeatureSettings
from serving.gateway.domain import Row, UserId
from serving.gateway.errors import Cause, FeaturesError
from serving.gateway.features.feast_features import FeastFeatures
from serving.gateway.ports import FeatureReader
from tests.gateway.fakes import NOW_S, MemoryFeatures
from tests.redis_server import redis_process

TIMEOUT_S = 10.0
EVENT_S = NOW_S - 3600
SAMPLES = {Dtype.STRING: "casual", Dtype.INT64: 7, Dtype.FLOAT32: 0.25, Dtype.BOOL: True}

Write = Callable[[View, str, Mapping[str, FeatureValue]], None]


@dataclass(kw_only=True)
class Subject:
    """A reader, how its store gets a row, and how its store breaks."""

    reader: FeatureReader
    write: Write
    break_store: Callable[[], None]


def memory_subject() -> Subject:
    features = MemoryFeatures()

    def write(view: View, user_id: str, values: Mapping[str, FeatureValue]) -> None:
        rows = features.rows.setdefault(user_id, {})
        rows[view.name] = Row(values=dict(values), event_unix_s=EVENT_S)

    def break_store() -> None:
        features.error = FeaturesError(Cause.UNAVAILABLE, "broken")

    return Subject(reader=features, write=write, break_store=break_store)


def feast_subject(state: StateDir, settings: FeatureSettings, break_store: Callable[[], None]) -> Subject:
    from feature_repo.online import rows

    store.apply(state, settings)
    opened = store.open_store(state, settings)

    def write(view: View, user_id: str, values: Mapping[str, FeatureValue]) -> None:
        row = rows.Row(entity_id=user_id, event_time=datetime.fromtimestamp(EVENT_S, UTC), values=values)
        rows.online_of(opened).load(view, rows.as_batch(view, [row]))

    return Subject(reader=FeastFeatures(opened), write=write, break_store=break_store)


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "memory":
        yield memory_subject()
        return
    state = StateDir(tmp_path)
    settings = FeatureSettings()
    if request.param == "sqlite":

        def break_store() -> None:
            with sqlite3.connect(tmp_path / "feast" / "online.db") as con:
                con.execute("DROP TABLE longtail_user_behavior")

        found = feast_subject(state, settings, break_store)
    else:
        with redis_process(tmp_path) as server:
            settings = FeatureSettings(online_store="redis", redis_url=server.url)
            found = feast_subject(state, settings, server.process.kill)
            yield found
            return
    yield found
    assert isinstance(found.reader, FeastFeatures)
    found.reader.close()


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose clock on the wall is eight hours ahead of UTC."""
    monkeypatch.setenv("TZ", "UTC-8")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_east")
async def test_a_row_keeps_its_time_wherever_the_machine_stands(subject: Subject) -> None:
    subject.write(USER_ACTIVITY, "u", {"events": 7})
    rows = await subject.reader.read(UserId("u"), timeout_s=TIMEOUT_S)
    assert rows["user_activity"].event_unix_s == EVENT_S


async def test_what_was_written_is_read_by_name(subject: Subject) -> None:
    behavior: dict[str, FeatureValue] = {
        "history_item_ids": ["i1", "предмет", ""],
        "count_event_types": ["click", "view"],
        "history_type_places": [0, 1, 1],
        "history_gaps_s": [3, 1, 1],
    }
    activity: dict[str, FeatureValue] = {"first_seen_unix_s": 5, "events": 7, "p_alive": 0.25, "state": "casual"}
    weights: dict[str, FeatureValue] = {"delta": [0.5, -0.25], "model_version": 20260101000000}
    subject.write(USER_BEHAVIOR, "u", behavior)
    subject.write(USER_ACTIVITY, "u", activity)
    subject.write(USER_WEIGHTS, "u", weights)
    rows = await subject.reader.read(UserId("u"), timeout_s=TIMEOUT_S)
    for view, written in (("user_behavior", behavior), ("user_activity", activity), ("user_weights", weights)):
        assert {name: rows[view].values[name] for name in written} == written
        assert rows[view].event_unix_s == EVENT_S


async def test_an_unknown_user_has_no_row(subject: Subject) -> None:
    subject.write(USER_BEHAVIOR, "u", {"history_item_ids": ["i1"]})
    assert await subject.reader.read(UserId("another"), timeout_s=TIMEOUT_S) == {}


async def test_a_view_without_the_users_row_is_not_in_the_answer(subject: Subject) -> None:
    subject.write(USER_ACTIVITY, "u", {"events": 1})
    assert set(await subject.reader.read(UserId("u"), timeout_s=TIMEOUT_S)) == {"user_activity"}


async def test_a_value_that_was_not_written_is_none_or_absent(subject: Subject) -> None:
    subject.write(USER_ACTIVITY, "u", {"events": 0})
    rows = await subject.reader.read(UserId("u"), timeout_s=TIMEOUT_S)
    assert rows["user_activity"].values["events"] == 0
    assert rows["user_activity"].values.get("p_alive") is None


@pytest.mark.parametrize("user_id", ["u" * 256, "用户", "a\u0000b", "😀", "'; --", " ", "u:1"])
async def test_users_of_any_name_are_told_apart(subject: Subject, user_id: str) -> None:
    subject.write(USER_ACTIVITY, user_id, {"events": 3})
    rows = await subject.reader.read(UserId(user_id), timeout_s=TIMEOUT_S)
    assert rows["user_activity"].values["events"] == 3
    assert await subject.reader.read(UserId(user_id + "x"), timeout_s=TIMEOUT_S) == {}


async def test_a_broken_store_is_a_failure_and_no_missing_row(subject: Subject) -> None:
    subject.write(USER_ACTIVITY, "u", {"events": 3})
    await subject.reader.read(UserId("u"), timeout_s=TIMEOUT_S)
    subject.break_store()
    with pytest.raises(FeaturesError) as failed:
        await subject.reader.read(UserId("u"), timeout_s=TIMEOUT_S)
    assert failed.value.cause is Cause.UNAVAILABLE


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_it_reads_what_feasts_own_sdk_writes_and_reads(tmp_path: Path, kind: Literal["sqlite", "redis"]) -> None:
    """The contract with Feast's format: Feast writes, Feast and this reader read the same of every feature."""
    with redis_process(tmp_path) as server:
        settings = (
            FeatureSettings() if kind == "sqlite" else FeatureSettings(online_store="redis", redis_url=server.url)
        )
        state = StateDir(tmp_path)
        store.apply(state, settings)
        opened = store.open_store(state, settings)
        values = {feature.name: SAMPLES[feature.dtype] for feature in USER_ACTIVITY.features}
        frame = pd.DataFrame([{"user_id": "Ж 1", "event_timestamp": datetime.fromtimestamp(EVENT_S, UTC), **values}])
        opened.write_to_online_store("user_activity", frame)
        names = [f"user_activity:{name}" for name in values]
        theirs = opened.get_online_features(features=names, entity_rows=[{"user_id": "Ж 1"}]).to_dict()
        reader = FeastFeatures(opened)
        ours = (await reader.read(UserId("Ж 1"), timeout_s=TIMEOUT_S))["user_activity"]
        reader.close()
        assert {name: [value] for name, value in ours.values.items()} == {name: theirs[name] for name in values}
        assert ours.event_unix_s == EVENT_S


async def test_a_hundred_users_at_once_each_get_their_own_rows(subject: Subject) -> None:
    for number in range(0, 100, 2):
        subject.write(USER_ACTIVITY, f"u{number}", {"events": number})
    users = [UserId(f"u{number}") for number in [*range(100), 4]]
    found = await asyncio.gather(*(subject.reader.read(user, timeout_s=TIMEOUT_S) for user in users))
    events = [rows["user_activity"].values["events"] if rows else None for rows in found]
    assert events == [*(None if number % 2 else number for number in range(100)), 4]


async def test_a_store_that_hangs_is_a_timeout(tmp_path: Path) -> None:
    with redis_process(tmp_path) as server:
        settings = FeatureSettings(online_store="redis", redis_url=server.url)
        subject = feast_subject(StateDir(tmp_path), settings, lambda: None)
        subject.write(USER_ACTIVITY, "u", {"events": 3})
        os.kill(server.process.pid, signal.SIGSTOP)
        with pytest.raises(FeaturesError) as failed:
            await subject.reader.read(UserId("u"), timeout_s=0.2)
        assert failed.value.cause is Cause.TIMEOUT
        os.kill(server.process.pid, signal.SIGCONT)
        rows = await subject.reader.read(UserId("u"), timeout_s=TIMEOUT_S)
        assert rows["user_activity"].values["events"] == 3  # no answer of the call before


async def test_a_registry_without_the_views_says_what_to_run(tmp_path: Path) -> None:
    state, settings = StateDir(tmp_path), FeatureSettings()
    store.apply(state, settings)
    opened = store.open_store(state, settings)
    opened.delete_feature_view("user_activity")
    with pytest.raises(LongtailError, match="longtail features apply"):
        FeastFeatures(opened)


async def test_a_registry_of_another_contract_says_what_differs_and_what_to_run(tmp_path: Path) -> None:
    state, settings = StateDir(tmp_path), FeatureSettings()
    store.apply(state, settings)
    opened = store.open_store(state, settings)
    former = replace(USER_ACTIVITY, features=USER_ACTIVITY.features[1:])
    opened.apply(feature_view(former))
    with pytest.raises(LongtailError, match=r"differs in first_seen_unix_s; run `longtail features build`"):
        FeastFeatures(opened)
