"""Training sets: rows of whom, what and when → the same rows with every feature as it was then.

Beside the joined file lie the views' tables for these moments, so that a Feast registry can give the same values
by `get_historical_features`.
"""

# ruff: noqa: S608  every name and text in the SQL goes through tabular.quoted and tabular.literal
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import duckdb
import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.contract import ITEM_NEIGHBORS, VIEWS, View
from feature_repo.drafts import draft
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.log.pseudonyms import Pseudonyms
from feature_repo.log.time_formats import detect_time_format
from feature_repo.settings import FeatureSettings
from feature_repo.tables.engine import EVENT_TIMESTAMP, Engine, duckdb_engine
from feature_repo.tables.point_in_time import KNOWN, Asked, feature_tables
from feature_repo.tabular import DataError, Relation, Report, literal, open_files, quoted, run, scratch_database, silent

KEYS: Final = ("user_id", "item_id")
FILE: Final = "training_set.parquet"


@dataclass(frozen=True, kw_only=True)
class TrainingSetSummary:
    """What was written."""

    file: Path
    rows: int
    views: tuple[str, ...]


def column_name(view: View, feature: str) -> str:
    """As Feast names it with `full_feature_names`: both users and items have a `first_seen_unix_s`."""
    return f"{view.name}__{feature}"


def write_training_set(
    state: StateDir,
    settings: FeatureSettings,
    asked_file: str,
    out: Path,
    *,
    wanted: Sequence[str] = (),
    pseudonyms: Pseudonyms | None = None,
    report: Report = silent,
) -> TrainingSetSummary:
    """Joins the features to the Parquet rows of `asked_file`, which keep their order and columns.

    The rows need `event_timestamp`, and `user_id` or `item_id` or both. No feature sees an event at or after its
    row's time. Raises DataError for rows that cannot be joined; then nothing is replaced.
    """
    with scratch_database(state.features) as con:
        relation = open_files(con, asked_file)
        views = _views_for(relation, wanted)
        _read(con, relation, views, pseudonyms, report)
        rows = _count(con, "SELECT count(*) FROM asked")
        with (
            EventLog(state.events).frozen() as (segments, _),
            duckdb_engine(state, settings, report, segments) as engine,
        ):
            parts = feature_tables(engine, _asked(con, views), settings, views)
            tables = _write_tables(engine, parts, views, out)
        _join(con, views, tables, out / FILE, report)
    return TrainingSetSummary(file=out / FILE, rows=rows, views=tuple(view.name for view in views))


def _views_for(relation: Relation, wanted: Sequence[str]) -> tuple[View, ...]:
    if not relation.sql.startswith("read_parquet"):
        raise DataError(f"{relation.origin} is CSV, which has no types; give the rows as Parquet")
    relation.column(EVENT_TIMESTAMP)
    keys = [key for key in KEYS if key in relation.columns]
    if not keys:
        raise DataError(
            f"{relation.origin} has neither user_id nor item_id; it has {', '.join(relation.columns)}; rename the "
            "column of the users or items"
        )
    views = tuple(map(_known_view, wanted)) or tuple(v for v in KNOWN if v.entity in keys and v != ITEM_NEIGHBORS)
    for view in views:
        if view.entity not in keys:
            raise DataError(f"{view.name} needs a column {view.entity}; {relation.origin} has none")
        made = {column_name(view, feature) for feature in view.feature_names()}
        if taken := sorted(made & set(relation.columns)):
            raise DataError(
                f"{relation.origin} has columns that {view.name} makes too: {', '.join(taken)}; rename them"
            )
    return views


def _known_view(name: str) -> View:
    for view in KNOWN:
        if view.name == name:
            return view
    names = ", ".join(view.name for view in KNOWN)
    if any(view.name == name for view in VIEWS):
        raise DataError(f"{name} is learnt from the log, the future of your rows included; give any of {names}")
    raise DataError(f"--view is {name!r}; give any of {names}")


def _read(
    con: duckdb.DuckDBPyConnection,
    relation: Relation,
    views: Sequence[View],
    pseudonyms: Pseudonyms | None,
    report: Report,
) -> None:
    """The rows as the table `asked`, numbered."""
    time_format = detect_time_format(con, relation, EVENT_TIMESTAMP, "auto")
    columns = {name: quoted(name) for name in relation.columns}
    columns[EVENT_TIMESTAMP] = time_format.expression(quoted(EVENT_TIMESTAMP))
    keys = sorted({view.entity for view in views})
    columns |= {key: f"CAST({quoted(key)} AS VARCHAR)" for key in keys}
    fields = ", ".join(f"{expression} AS {quoted(name)}" for name, expression in columns.items())
    query = f"CREATE TABLE asked AS SELECT {fields}, row_number() OVER () AS {_ROW} FROM {relation.sql}"
    run(con, query, {}, step="read rows", report=report)
    unusable = [f"{quoted(EVENT_TIMESTAMP)} IS NULL", *(f"coalesce({key}, '') = ''" for key in keys)]
    total, bad = _count(con, "SELECT count(*) FROM asked"), _count(con, _where(" OR ".join(unusable)))
    if not total:
        raise DataError(f"{relation.origin} has no row")
    if bad:
        needed = " or ".join((EVENT_TIMESTAMP, *keys))
        raise DataError(f"{bad} of {total} rows of {relation.origin} have no {needed} that can be read; leave them out")
    if pseudonyms is not None and "user_id" in keys:
        _hide(con, pseudonyms)


def _hide(con: duckdb.DuckDBPyConnection, pseudonyms: Pseudonyms) -> None:
    """Users are called what the log calls them."""
    known = con.sql("SELECT DISTINCT user_id FROM asked").to_arrow_table()["user_id"].to_pylist()
    names = pa.table({"user_id": known, "hidden": [pseudonyms.of(user_id) for user_id in known]})  # noqa: F841  DuckDB reads it
    con.execute("UPDATE asked SET user_id = names.hidden FROM names WHERE asked.user_id = names.user_id")


def _asked(con: duckdb.DuckDBPyConnection, views: Sequence[View]) -> Asked:
    keys = {view.entity for view in views}
    when = {"user_id": EVENT_TIMESTAMP, "item_id": f"date_trunc('day', {EVENT_TIMESTAMP})"}

    def distinct(key: str) -> list[tuple[str, datetime]]:
        found = con.sql(f"SELECT DISTINCT {key}, {when[key]} AS as_of FROM asked ORDER BY ALL").to_arrow_table()
        return list(zip(found[key].to_pylist(), found["as_of"].to_pylist(), strict=True))

    return Asked(
        users=distinct("user_id") if "user_id" in keys else (),
        items=distinct("item_id") if "item_id" in keys else (),
    )


def _write_tables(
    engine: Engine, parts: Iterable[tuple[View, ibis.Table]], views: Sequence[View], out: Path
) -> list[Path]:
    """A table for each view."""
    out.mkdir(parents=True, exist_ok=True)
    written: dict[str, list[Path]] = {view.name: [] for view in views}
    for view, table in parts:
        part = out / f".{view.name}-{len(written[view.name])}.parquet.unfinished"
        written[view.name].append(part)
        engine.write(view, table, part)
    return [_concatenate(written[view.name], out / f"{view.name}.parquet") for view in views]


def _concatenate(parts: Sequence[Path], file: Path) -> Path:
    with (
        draft(file) as unfinished,
        pq.ParquetWriter(unfinished, pq.read_schema(parts[0]), compression="zstd") as writer,
    ):
        for part in parts:
            for batch in pq.ParquetFile(part).iter_batches():
                writer.write_batch(batch)
            part.unlink()
    return file


def _join(
    con: duckdb.DuckDBPyConnection, views: Sequence[View], tables: Sequence[Path], file: Path, report: Report
) -> None:
    columns, joins = [f"asked.* EXCLUDE ({_ROW})"], []
    for view, table in zip(views, tables, strict=True):
        name = quoted(view.name)
        columns += [f"{name}.{quoted(f)} AS {quoted(column_name(view, f))}" for f in view.feature_names()]
        when = f"asked.{EVENT_TIMESTAMP}"
        when = when if view.entity == "user_id" else f"date_trunc('day', {when})"
        on = f"asked.{view.entity} = {name}.{view.entity} AND {when} = {name}.{EVENT_TIMESTAMP}"
        joins.append(f"JOIN read_parquet({literal(str(table))}) AS {name} ON {on}")
    query = f"SELECT {', '.join(columns)} FROM asked {' '.join(joins)} ORDER BY asked.{_ROW}"
    with draft(file) as unfinished:
        copy = f"COPY ({query}) TO {literal(str(unfinished))} (FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)"
        run(con, copy, {}, step="join", report=report)


_ROW: Final = "longtail_row"


def _where(condition: str) -> str:
    return f"SELECT count(*) FROM asked WHERE {condition}"


def _count(con: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(con.execute(query).fetchall()[0][0])
