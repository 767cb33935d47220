"""Spark and DuckDB compute the same tables, value by value and type by type."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.data_source import DataSource
from typer.testing import CliRunner

from cli.main import app
from feature_repo.contract import ITEM_STATS, USER_ACTIVITY, View
from feature_repo.events import Event
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.settings import FeatureSettings
from feature_repo.tables.build import BUILT, build, offline_file
from feature_repo.tables.facts import ITEM_FACTS
from feature_repo.tables.incremental import build_incremental
from feature_repo.tables.spark_engine import build_on_spark
from feature_repo.tabular import DataError
from tests.feature_repo.test_incremental import describe, import_as
from tests.feature_repo.test_training_set import assert_feast_joins_the_same, make, row, world
from tests.feature_repo.world import event

pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'longtail[spark]'")

SPRING_FORWARD = datetime(2026, 3, 29, 1, tzinfo=UTC)  # clocks in Berlin go from 2 to 3
AUTUMN_HOURS = [154 * 24 - 1, 154 * 24, 154 * 24 + 1]  # back from there, clocks in Berlin go from 3 to 2
AS_OF = datetime(2026, 3, 30, 22, 30, tzinfo=UTC)  # the next day in Berlin
SETTINGS = FeatureSettings(build_threads=1)


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One small local Spark, on a machine whose clock is Berlin's."""
    from pyspark.sql import SparkSession

    from feature_repo.tables.spark_engine import find_programs

    find_programs()
    if "JAVA_HOME" not in os.environ and shutil.which("java") is None:
        pytest.skip("there is no Java: pip install 'longtail[spark]' brings one, or set JAVA_HOME")
    zone = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    options: dict[str, bool | float | int | str | None] = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.codegen.wholeStage": "false",  # more to compile than to compute
        "spark.driver.memory": "1g",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
    }
    spark = SparkSession.builder.master("local[2]").config(map=options).getOrCreate()
    yield
    spark.stop()
    os.environ.pop("TZ")
    if zone is not None:
        os.environ["TZ"] = zone
    time.tzset()


def log_of(seed: int) -> list[Event]:
    """Out of order, with ties in users, items and seconds, around the hour that a local clock skips."""
    random = np.random.default_rng(seed)
    kinds = ["view", "click", "purchase", "return", "exposure", "exposure", "contact", "opt_out", "opt_in"]
    events = []
    for number in range(300):
        kind = kinds[random.integers(len(kinds))]
        is_contact = kind in ("contact", "opt_out", "opt_in")
        hours = random.choice([0, 1, 2, 24, 25, 30 * 24, 45 * 24, *AUTUMN_HOURS, 200 * 24])
        events.append(
            event(
                f"e{seed}-{number}",
                user_id=f"u{min(random.geometric(0.1), 25)}",
                item_id="" if is_contact else f"i{min(random.geometric(0.3), 9)}",
                event_type=kind,
                event_time=SPRING_FORWARD
                - timedelta(hours=int(hours), microseconds=int(random.choice([-1, 0, 1, 500_000]))),
                surface=str(random.choice(["", "push", "email"])) if is_contact else "",
            )
        )
    return events


def blank(file: Path, name: str) -> None:
    """Nulls in place of empty texts."""
    known = pq.read_table(file)
    texts = pa.array([text or None for text in known[name].to_pylist()], pa.string())
    pq.write_table(known.set_column(known.schema.get_field_index(name), name, texts), file)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> StateDir:
    """Two imports that share events, feedback with a torn last line, and a catalogue with missing values."""
    state = StateDir(tmp_path_factory.mktemp("state"))
    describe(state)
    items = state.items / "items.parquet"
    known = pq.read_table(items)
    holes = {"title": [None, *known["title"].to_pylist()[1:]], "price": [1.5, None, 2.5, None, 3.5, 4.5, None]}
    for name, values in holes.items():
        place = known.schema.get_field_index(name)
        known = known.set_column(place, name, pa.array(values, known.schema.field(name).type))
    pq.write_table(known, items)
    first, second = log_of(1), log_of(2)
    import_as(state, "first", first)
    blank(state.events / "first.parquet", "surface")
    import_as(state, "second", [*second, *first[:50]])
    EventLog(state.events).append([event("recorded", user_id="u1", event_time=AS_OF - timedelta(seconds=1))])
    with next((state.events / "segments").glob("*.jsonl")).open("ab") as segment:
        segment.write(b'{"event_id":"torn","user_')
    return state


def test_both_engines_make_the_same_tables(state: StateDir) -> None:
    summary = build_on_spark(state, SETTINGS, as_of=AS_OF)
    files = {view.name: offline_file(state, view) for view in (*BUILT, ITEM_FACTS)}
    on_spark = {name: pq.read_table(file) for name, file in files.items()}
    assert build_incremental(state, SETTINGS, as_of=AS_OF).full_because  # Spark leaves no watermark
    for name, file in files.items():
        ours = pq.read_table(file)
        fields = [(field.name, str(field.type).replace(" not null", "")) for field in ours.schema]
        assert [(f.name, str(f.type).replace(" not null", "")) for f in on_spark[name].schema] == fields
        for column in ours.column_names:
            expected = on_spark[name][column].cast(ours.schema.field(column).type)
            assert ours[column].equals(expected), (name, column)
    assert summary == build(state, SETTINGS, as_of=AS_OF)
    assert summary.rows[ITEM_STATS.name] == 9


def test_an_empty_log_and_a_damaged_import_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"event log .* is empty"):
        build_on_spark(StateDir(tmp_path), SETTINGS, as_of=AS_OF)
    (tmp_path / "events").mkdir()
    (tmp_path / "events/bad.parquet").write_bytes(b"no Parquet at all")
    with pytest.raises(DataError, match=r"Spark failed: .*bad\.parquet is not a Parquet file"):
        build_on_spark(StateDir(tmp_path), SETTINGS, as_of=AS_OF)


def test_feast_joins_the_same_training_set_on_spark(tmp_path: Path) -> None:
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

    def source(view: View, path: str) -> DataSource:
        return SparkSource(name=view.name, path=path, file_format="parquet", timestamp_field="event_timestamp")

    made = world(str(tmp_path), log_of(3)[:60])
    rows = [row("u1", "i1", SPRING_FORWARD, 0), row("u2", "i3", AS_OF, 1), row("u2", "i4", AS_OF, 2)]
    views = (USER_ACTIVITY, ITEM_STATS)
    make(made, rows, [view.name for view in views])
    assert_feast_joins_the_same(made, views, source, {"type": "spark", "spark_conf": {}})


@pytest.mark.parametrize(
    ("words", "says"), [(["--engine", "flink"], "duckdb or spark"), (["--engine", "spark", "--incremental"], "one of")]
)
def test_what_an_engine_cannot_do_is_refused(words: list[str], says: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--state-dir", str(tmp_path), "features", "build", *words])
    assert result.exit_code == 2
    assert says in result.output
