"""The port to what computes the views, and its default: DuckDB, out of core on one machine."""

# ruff: noqa: S608  every name and text in the SQL goes through tabular.quoted and tabular.literal
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import duckdb
import ibis
import pyarrow as pa

from feature_repo.contract import Dtype, View
from feature_repo.events import EPOCH
from feature_repo.layout import StateDir
from feature_repo.log.catalogue import catalogue_table
from feature_repo.log.event_log import COLUMNS, EventLog
from feature_repo.settings import FeatureSettings
from feature_repo.tables.facts import WEIGHT_SCALE
from feature_repo.tabular import DataError, Report, literal, quoted, run, scratch_database

EVENT_TIMESTAMP: Final = "event_timestamp"

IBIS_TYPES: Final = {
    Dtype.STRING: "string",
    Dtype.INT64: "int64",
    Dtype.FLOAT32: "float32",
    Dtype.BOOL: "boolean",
    Dtype.STRINGS: "array<string>",
    Dtype.INT64S: "array<int64>",
    Dtype.FLOAT32S: "array<float32>",
}
_DUCKDB_TYPES: Final = {
    Dtype.STRING: "VARCHAR",
    Dtype.INT64: "BIGINT",
    Dtype.FLOAT32: "FLOAT",
    Dtype.BOOL: "BOOLEAN",
    Dtype.STRINGS: "VARCHAR[]",
    Dtype.INT64S: "BIGINT[]",
    Dtype.FLOAT32S: "FLOAT[]",
}
PREPARED: Final = ibis.schema(  # of `facts.prepare`
    {
        "user_id": "string",
        "item_id": "string",
        "event_type": "string",
        "surface": "string",
        "event_us": "int64",
        "unix_s": "int64",
        "weight": "int64",
    }
)
_ENUMS: Final = {"user_id": "user_ids", "item_id": "item_ids", "event_type": "event_types", "surface": "surfaces"}


class Engine(Protocol):
    """Computes Ibis tables. All tables of one build belong to one engine."""

    def events(self, before: datetime) -> ibis.Table:
        """The event log before a moment, as `facts.prepare` gives it."""

    def first_event(self) -> datetime | None:
        """The time of the log's first event, of whatever moment; None for an empty log."""

    def items(self) -> ibis.Table:
        """The catalogue."""

    def keep(self, name: str, table: ibis.Table) -> ibis.Table:
        """Computes a table now, because it is used more than once; `name` is new."""

    def drop(self, *names: str) -> None:
        """Forgets kept tables that no one will ask for again, which gives their memory back."""

    def put(self, name: str, rows: pa.Table) -> ibis.Table:
        """A table of rows made outside of the engine."""

    def fetch(self, table: ibis.Table) -> pa.Table:
        """A small result."""

    def write(self, view: View, table: ibis.Table, file: Path) -> None:
        """The view in the contract's columns and types as one Parquet file, ordered by its key."""


class DuckDb:
    """Ids are kept as ENUMs of sorted names: they sort and group as small numbers and read as text."""

    def __init__(
        self,
        raw: duckdb.DuckDBPyConnection,
        state: StateDir,
        settings: FeatureSettings,
        report: Report,
        segments: Sequence[Path] | None = None,
    ) -> None:
        self.raw = raw
        self.con = ibis.duckdb.from_connection(raw)
        self._state = state
        self._settings = settings
        self._report = report
        self._segments = segments

    def events(self, before: datetime) -> ibis.Table:
        with self._reading():
            return self.encode(EventLog(self._state.events).table(self.con, segments=self._segments), before)

    def encode(self, log: ibis.Table, before: datetime) -> ibis.Table:
        """Events as `events` gives them, from rows of the log; what columns they have beside those of Event stay."""
        more = [name for name in log.columns if name not in COLUMNS]
        with self._reading():
            columns = ["user_id", "item_id", "event_type", "coalesce(surface, '') AS surface", *more]
            query = (
                f"SELECT {', '.join(columns)}, epoch_us(event_time) AS event_us "
                f"FROM ({ibis.to_sql(log, dialect='duckdb')}) WHERE event_us < {_us(before)}"
            )
            kind = "TABLE" if more or self._has_segments() else "VIEW"  # Parquet is as quickly read twice
            self._run("read events", f"CREATE {kind} log AS {query}")
            self.con.create_table("catalogue", catalogue_table(self._state, self.con))
            for column, enum in _ENUMS.items():
                self._make_enum(column, enum)
        ids = ", ".join(f"{enum}.id AS {column}" for column, enum in _ENUMS.items())
        joins = " ".join(
            f"JOIN names_of_{enum} AS {enum} ON log.{column} = {enum}.name" for column, enum in _ENUMS.items()
        )
        kept = "".join(f", log.{name}" for name in more)
        self._run(
            "encode events",
            f"CREATE TABLE events AS SELECT {ids}, event_us, event_us // 1000000 AS unix_s, "
            f"event_types.weight AS weight{kept} FROM log {joins}; DROP {kind} log",
        )
        self._run(
            "encode items",
            "CREATE TABLE items AS SELECT item_ids.id AS item_id, catalogue.* EXCLUDE item_id "
            "FROM catalogue JOIN names_of_item_ids AS item_ids ON catalogue.item_id = item_ids.name",
        )
        schema = {**PREPARED, **{name: log.schema()[name] for name in more}}
        return ibis.table(ibis.schema(schema), name="events")

    def first_event(self) -> datetime | None:
        log = EventLog(self._state.events).table(self.con)
        first: datetime | None = self.fetch(log.agg(first=log.event_time.min()))["first"][0].as_py()
        return first

    def items(self) -> ibis.Table:
        return ibis.table(self.con.table("catalogue").schema(), name="items")

    def keep(self, name: str, table: ibis.Table) -> ibis.Table:
        self._run(f"compute {name}", f"CREATE TABLE {quoted(name)} AS {ibis.to_sql(table, dialect='duckdb')}")
        return ibis.table(table.schema(), name=name)  # not asked of DuckDB: an ENUM's description has all its names

    def drop(self, *names: str) -> None:
        for name in names:
            self.raw.execute(f"DROP TABLE {quoted(name)}")

    def put(self, name: str, rows: pa.Table) -> ibis.Table:
        self.raw.register("rows_put", rows)
        self.raw.execute(f"CREATE TABLE {quoted(name)} AS SELECT * FROM rows_put")
        self.raw.unregister("rows_put")
        return ibis.table(ibis.schema(rows.schema), name=name)

    def fetch(self, table: ibis.Table) -> pa.Table:
        return self.raw.sql(ibis.to_sql(table, dialect="duckdb")).to_arrow_table()

    def write(self, view: View, table: ibis.Table, file: Path) -> None:
        columns = [f"CAST({view.entity} AS VARCHAR) AS {view.entity}", f"as_of AS {EVENT_TIMESTAMP}"]
        columns += [f"CAST({quoted(f.name)} AS {_DUCKDB_TYPES[f.dtype]}) AS {quoted(f.name)}" for f in view.features]
        rows = ibis.to_sql(table, dialect="duckdb")
        query = f"SELECT {', '.join(columns)} FROM ({rows}) AS view ORDER BY view.{view.entity}"
        options = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, USE_TMP_FILE false"
        copy = f"COPY ({query}) TO {literal(str(file))} ({options})"
        self._run(f"build {view.name}", copy)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise DataError(
                f"cannot read the events in {self._state.events} or the items in {self._state.items}: {error}"
            ) from error

    def _has_segments(self) -> bool:
        return bool(EventLog(self._state.events).segment_files() if self._segments is None else self._segments)

    def _make_enum(self, column: str, enum: str) -> None:
        names = f"SELECT DISTINCT {column} AS name FROM log"
        if column == "item_id":
            names = f"SELECT name FROM ({names} UNION SELECT item_id FROM catalogue)"
        self.raw.execute(
            f"CREATE TABLE sorted_{enum} AS SELECT CAST(name AS VARCHAR) AS name FROM ({names}) ORDER BY name"
        )
        self.raw.execute(f"CREATE TYPE {enum} AS ENUM (SELECT name FROM sorted_{enum})")
        weight = self._weight_sql(f"sorted_{enum}") if column == "event_type" else "NULL"
        self.raw.execute(
            f"CREATE TABLE names_of_{enum} AS SELECT name, CAST(name AS {enum}) AS id, {weight} AS weight "
            f"FROM sorted_{enum}; DROP TABLE sorted_{enum}"
        )

    def _weight_sql(self, types: str) -> str:
        names = self.raw.execute(f"SELECT name FROM {types}").fetchall()
        whens = [f"WHEN {literal(name)} THEN {round(self._settings.weight(name) * WEIGHT_SCALE)}" for (name,) in names]
        return f"CAST(CASE CAST(name AS VARCHAR) {' '.join(whens)} END AS BIGINT)" if whens else "0::BIGINT"

    def _run(self, step: str, sql: str) -> None:
        run(self.raw, sql, {}, step=step, report=self._report)


def _us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


@contextmanager
def duckdb_engine(
    state: StateDir, settings: FeatureSettings, report: Report, segments: Sequence[Path] | None = None
) -> Iterator[DuckDb]:
    """An engine with a scratch database of its own, within the settings' memory and threads.

    `segments` are the event log's as `EventLog.frozen` gives them; by default those there are when they are read.
    """
    with scratch_database(state.features) as raw:
        options: dict[str, Any] = {"memory_limit": settings.build_memory, "threads": settings.build_threads}
        for name, value in options.items():
            if value:
                raw.execute(f"SET {name} = {literal(str(value))}")
        raw.execute("SET preserve_insertion_order = false")
        yield DuckDb(raw, state, settings, report, segments)
