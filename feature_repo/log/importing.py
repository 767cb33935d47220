"""A user's own log → the event log: every row is accepted, or quarantined with the reason. None vanishes."""

# ruff: noqa: S608  every name and text in the SQL goes through tabular.quoted and tabular.literal
from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow.parquet as pq

from feature_repo.drafts import draft
from feature_repo.events import CONTACT_TYPES, EPOCH, EVENT_TYPE_PATTERN, MAX_EVENT_ID_BYTES, MAX_FUTURE, MAX_ID_BYTES
from feature_repo.layout import StateDir
from feature_repo.locks import exclusive
from feature_repo.log.event_log import COLUMNS, EventLog
from feature_repo.log.pseudonyms import Pseudonyms
from feature_repo.log.time_formats import TimeFormat, detect_time_format
from feature_repo.log.tombstones import Tombstones
from feature_repo.tabular import DataError, Relation, Report, literal, quoted, run, silent

EVENT_FIELDS: Final = ("user", "item", "time", "type", "value", "event_id", "surface", "decision_id")
ERASED: Final = "erased_user"
SOURCE_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"


@dataclass(frozen=True, kw_only=True)
class EventMapping:
    """Which column holds what. `type_constant` is every event's type when no column holds it."""

    columns: Mapping[str, str]  # field of EVENT_FIELDS → the file's column
    type_constant: str | None = None
    time_format: str = "auto"

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in EVENT_FIELDS:
                raise DataError(f"--map has no field {name!r}; there are {', '.join(EVENT_FIELDS)}")
        missing = [name for name in ("user", "item", "time") if name not in self.columns]
        if missing:
            raise DataError(f"--map must name the columns of {', '.join(missing)}, such as {missing[0]}=COLUMN")
        if "type" in self.columns and self.type_constant is not None:
            raise DataError("give either --map type=COLUMN or --type-constant, not both")
        if "type" not in self.columns and self.type_constant is None:
            raise DataError("the events have no type; give --map type=COLUMN, or --type-constant view")
        if self.type_constant is not None and not re.fullmatch(EVENT_TYPE_PATTERN, self.type_constant):
            raise DataError(f"--type-constant is {self.type_constant!r}; give lower_snake_case, such as view")


@dataclass(frozen=True, kw_only=True)
class ImportSummary:
    """What became of the rows: `rows` = `accepted` + the sum of `quarantined`."""

    source: str
    rows: int
    accepted: int
    quarantined: Mapping[str, int]  # reason → rows
    quarantine_file: Path | None
    time_format: str = ""
    first_event: datetime | None = None
    last_event: datetime | None = None
    users: int = 0
    items: int = 0
    types: Mapping[str, int] = field(default_factory=dict)
    replaced: int = 0  # rows that the source had brought before
    fractions: tuple[str, ...] = ()  # fields whose ids are all whole numbers written with `.0`


def import_events(
    state: StateDir,
    con: duckdb.DuckDBPyConnection,
    relation: Relation,
    mapping: EventMapping,
    *,
    source: str,
    now: datetime,
    pseudonyms: Pseudonyms | None = None,
    report: Report = silent,
) -> ImportSummary:
    """Replaces what `source` brought before. `con` is a `scratch_database`. Nothing is replaced on an error.

    Raises DataError while another import, a pruning or an erasure is at work.
    """
    check_source(source)
    for column in mapping.columns.values():
        relation.column(column)
    with one_import(state):
        return _import_events(
            state, con, relation, mapping, source=source, now=now, pseudonyms=pseudonyms, report=report
        )


def one_import(state: StateDir) -> AbstractContextManager[None]:
    """Refuses another import, a pruning or an erasure beside one: each puts files in place, the other's work undone."""

    def busy(process: str) -> DataError:
        return DataError(f"another import, pruning or erasure is at work (process {process}); wait for it to end")

    return exclusive(state.events / ".import.lock", busy)


def _import_events(
    state: StateDir,
    con: duckdb.DuckDBPyConnection,
    relation: Relation,
    mapping: EventMapping,
    *,
    source: str,
    now: datetime,
    pseudonyms: Pseudonyms | None,
    report: Report,
) -> ImportSummary:
    time_format = detect_time_format(con, relation, mapping.columns["time"], mapping.time_format)
    stage(con, relation, _fields(relation, mapping, time_format), step="read rows", report=report)
    _mark_refused(con, now, report)
    fractions = _fractions(con)
    hidden = None
    if pseudonyms is not None:
        hidden = (mapping.columns["user"], pseudonyms)
        _pseudonymize(con, pseudonyms, derived_ids="event_id" not in mapping.columns, report=report)
    _mark_erased(con, state, report)
    _mark_duplicates(con, EventLog(state.events), source, report)
    quarantine_file, quarantined = write_quarantine(
        con, relation, state.quarantine / f"{source}-{_stamp(now)}.parquet", hidden=hidden
    )
    summary = _summarize(con, source, quarantined, quarantine_file, time_format)
    if summary.accepted == 0:
        raise DataError(_nothing_accepted(relation, summary))
    target = state.events / f"{source}.parquet"
    replaced = pq.read_metadata(target).num_rows if target.exists() else 0
    copy_atomically(con, f"SELECT {', '.join(COLUMNS)} FROM staged WHERE reason IS NULL ORDER BY row", target)
    return replace(summary, replaced=replaced, fractions=fractions)


def check_source(source: str) -> None:
    """The name becomes a file name."""
    if not re.fullmatch(SOURCE_PATTERN, source):
        raise DataError(f"--source is {source!r}; give 1 to 64 letters, digits, '_', '-' or '.', such as webshop")


def stage(
    con: duckdb.DuckDBPyConnection, relation: Relation, fields: Mapping[str, str], *, step: str, report: Report
) -> None:
    """One scan of the file into the table `staged`: row, reason, the fields, and the row as it was."""
    exprs = ", ".join(f"{expr} AS {name}" for name, expr in fields.items())
    sql = (
        f"CREATE TABLE staged AS SELECT row_number() OVER () AS row, NULL::VARCHAR AS reason, {exprs}, "
        f"longtail_original FROM (SELECT longtail_scan AS longtail_original, longtail_scan.* "
        f"FROM {relation.sql} AS longtail_scan)"
    )
    run(con, sql, {}, step=step, report=report)


def write_quarantine(
    con: duckdb.DuckDBPyConnection, relation: Relation, file: Path, *, hidden: tuple[str, Pseudonyms] | None = None
) -> tuple[Path | None, dict[str, int]]:
    """The refused rows of `staged` and the file's malformed lines; the file and the count of each reason.

    `hidden` is the users' column and what takes its place; a malformed line may hold a user anywhere and is left out.
    """
    earlier = [quoted(name) for name in relation.columns if name.lower() == "quarantine_reason"]  # a mended quarantine
    original = f"longtail_original.* EXCLUDE ({earlier[0]})" if earlier else "longtail_original.*"
    refused = f"SELECT {original}, reason AS quarantine_reason FROM staged WHERE reason IS NOT NULL"
    line = "csv_line"
    if hidden is not None:
        column, pseudonyms = hidden
        line = "NULL::VARCHAR"
        instead = pseudonyms.expression(id_expression(relation, column))
        refused = f"SELECT * REPLACE ({instead} AS {relation.column(column)}) FROM ({refused})"
    if _count_rejects(con):
        lines = "SELECT DISTINCT scan_id, file_id, line, csv_line FROM reject_errors"
        refused += (
            f" UNION ALL BY NAME SELECT 'malformed_line' AS quarantine_reason, {line} AS quarantine_line FROM ({lines})"
        )
    try:
        counts = con.execute(
            f"SELECT quarantine_reason, count(*) FROM ({refused}) GROUP BY ALL ORDER BY 2 DESC, 1"
        ).fetchall()
        if not counts:
            return None, {}
        copy_atomically(con, refused, file)
    except duckdb.Error as error:
        raise DataError(f"cannot write the quarantine of {relation.origin}: {error}") from error
    return file, dict(counts)


def copy_atomically(con: duckdb.DuckDBPyConnection, query: str, target: Path) -> None:
    """The query's rows as Parquet, put in place by a rename. Raises DataError when they cannot be written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    options = "FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false"
    try:
        with draft(target) as unfinished:
            con.execute(f"COPY ({query}) TO {literal(str(unfinished))} ({options})")
    except duckdb.Error as error:
        raise DataError(f"cannot write {target}: {error}; is there space on the disk?") from error


def id_expression(relation: Relation, column: str) -> str:
    """Ids are text; a whole number read as floating point (a column with gaps) loses its `.0`."""
    name = relation.column(column)
    if relation.type_of(column) in ("FLOAT", "DOUBLE"):
        whole = f"CAST(TRY_CAST({name} AS BIGINT) AS VARCHAR)"
        text = f"CASE WHEN {name} = trunc({name}) THEN {whole} ELSE CAST({name} AS VARCHAR) END"
        return f"CASE WHEN NOT isnan({name}) THEN {text} END"
    return text_expression(relation, column)


def text_expression(relation: Relation, column: str) -> str:
    """The column as text; bytes are UTF-8, and NULL where they are not. Raises DataError for lists and records."""
    name, kind = relation.column(column), relation.type_of(column)
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION")):
        raise DataError(f"column {column!r} of {relation.origin} is {kind}; give a column of text or numbers")
    return f"TRY(decode({name}))" if kind == "BLOB" else f"CAST({name} AS VARCHAR)"


def _fields(relation: Relation, mapping: EventMapping, time_format: TimeFormat) -> dict[str, str]:
    """The log's columns as SQL over the file's; NULL where the file has nothing usable."""
    columns = mapping.columns
    user, item = id_expression(relation, columns["user"]), id_expression(relation, columns["item"])
    time = time_format.expression(relation.column(columns["time"]))
    value, value_text = "NULL::DOUBLE", "''"
    if "value" in columns:
        value_text = f"coalesce(CAST({relation.column(columns['value'])} AS VARCHAR), '')"
        value = f"TRY_CAST({relation.column(columns['value'])} AS DOUBLE)"
    if mapping.type_constant is not None:
        kind = literal(mapping.type_constant)
    else:  # "Add to cart" is add_to_cart
        kind = f"lower(regexp_replace(trim({text_expression(relation, columns['type'])}), '[ -]+', '_', 'g'))"
    # without an id of its own, an event is what it says: the same twice is a duplicate
    # (of contacts the channel says something too)
    surface = _text(relation, columns, "surface")
    channel = f"CASE WHEN {kind} IN ({', '.join(map(literal, CONTACT_TYPES))}) THEN {surface} END"
    identity = f"md5(concat_ws(chr(31), {user}, {item}, {kind}, epoch_us({time}), {value_text}, {channel}))"
    if "event_id" in columns:
        identity = f"coalesce(nullif({id_expression(relation, columns['event_id'])}, ''), {identity})"
    return {
        "event_id": identity,
        "user_id": user,
        "item_id": f"coalesce({item}, '')",
        "event_type": kind,
        "event_time": time,
        "value": value,
        "has_bad_value": f"{value_text} <> '' AND ({value} IS NULL OR NOT isfinite({value}))",
        "surface": surface,
        "decision_id": _text(relation, columns, "decision_id"),
    }


def _text(relation: Relation, columns: Mapping[str, str], name: str) -> str:
    return f"coalesce({text_expression(relation, columns[name])}, '')" if name in columns else "''"


def _mark_refused(con: duckdb.DuckDBPyConnection, now: datetime, report: Report) -> None:
    """The rules of `events.refusal`, over the whole table."""
    types = ", ".join(map(literal, CONTACT_TYPES))
    sql = f"""
        UPDATE staged SET reason = CASE
            WHEN coalesce(user_id, '') = '' THEN 'no_user'
            WHEN coalesce(item_id, '') = '' AND coalesce(event_type, '') NOT IN ({types}) THEN 'no_item'
            WHEN strlen(user_id) > {MAX_ID_BYTES} THEN 'user_too_long'
            WHEN strlen(item_id) > {MAX_ID_BYTES} THEN 'item_too_long'
            WHEN strlen(event_id) > {MAX_EVENT_ID_BYTES} THEN 'event_id_too_long'
            WHEN event_time IS NULL THEN 'bad_time'
            WHEN event_time < $epoch THEN 'before_1970'
            WHEN event_time > $latest THEN 'future_time'
            WHEN NOT coalesce(regexp_full_match(event_type, {literal(EVENT_TYPE_PATTERN)}), false) THEN 'bad_type'
            WHEN has_bad_value THEN 'bad_value'
            WHEN strlen(surface) > {MAX_EVENT_ID_BYTES} THEN 'surface_too_long'
            WHEN strlen(decision_id) > {MAX_EVENT_ID_BYTES} THEN 'decision_id_too_long'
        END
    """
    run(con, sql, {"epoch": EPOCH, "latest": now + MAX_FUTURE}, step="check rows", report=report)


def _fractions(con: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """`user` and `item` where every id is such as 17850.0: what pandas makes of whole numbers beside gaps."""
    sql = "SELECT bool_and(regexp_full_match({}, '[0-9]+[.]0')) FROM staged WHERE reason IS NULL"
    return tuple(name for name in ("user", "item") if con.execute(sql.format(f"{name}_id")).fetchall()[0][0])


def _pseudonymize(con: duckdb.DuckDBPyConnection, pseudonyms: Pseudonyms, *, derived_ids: bool, report: Report) -> None:
    """An event's id that is made of what the event says, the user included, would let a guess be tested."""
    changes = [f"user_id = {pseudonyms.expression('user_id')}"]
    if derived_ids:
        changes.append(f"event_id = {pseudonyms.expression('event_id')}")
    sql = f"UPDATE staged SET {', '.join(changes)} WHERE coalesce(user_id, '') <> ''"
    run(con, sql, {}, step="hide users", report=report)


def _mark_erased(con: duckdb.DuckDBPyConnection, state: StateDir, report: Report) -> None:
    """What an erased user did before the erasure does not come back, not even into the quarantine."""
    erased = Tombstones(state.events).condition("user_id", "event_time")
    if erased != "false":
        sql = f"UPDATE staged SET reason = '{ERASED}', longtail_original = NULL WHERE {erased}"
        run(con, sql, {}, step="leave erased users out", report=report)


def _mark_duplicates(con: duckdb.DuckDBPyConnection, log: EventLog, source: str, report: Report) -> None:
    """The first row of an id stays; an id that another source or the feedback brought is known already."""
    known = []
    if others := [str(file) for file in log.import_files() if file.stem != source]:
        known.append(f"SELECT event_id FROM read_parquet([{', '.join(map(literal, others))}])")
    if segments := [str(file) for file in log.segment_files() if file.stat().st_size]:
        listed = ", ".join(map(literal, segments))
        known.append(
            f"SELECT event_id FROM read_json([{listed}], columns = {{event_id: 'VARCHAR'}}, "
            "format = 'newline_delimited', ignore_errors = true) WHERE event_id IS NOT NULL"
        )
    elsewhere = f"event_id IN ({' UNION ALL '.join(known)})" if known else "false"
    sql = f"""
        UPDATE staged SET reason = 'duplicate' WHERE row IN (
            SELECT row FROM (
                SELECT row, event_id, row_number() OVER (PARTITION BY event_id ORDER BY row) AS occurrence
                FROM staged WHERE reason IS NULL
            ) WHERE occurrence > 1 OR {elsewhere}
        )
    """
    run(con, sql, {}, step="find duplicates", report=report)


def _summarize(
    con: duckdb.DuckDBPyConnection,
    source: str,
    quarantined: Mapping[str, int],
    quarantine_file: Path | None,
    time_format: TimeFormat,
) -> ImportSummary:
    def one(sql: str) -> tuple[Any, ...]:
        row = con.execute(sql).fetchone()
        assert row is not None
        return row

    accepted, users, items, first, last = one(
        "SELECT count(*), count(DISTINCT user_id), count(DISTINCT item_id), min(event_time), max(event_time) "
        "FROM staged WHERE reason IS NULL"
    )
    types = con.execute(
        "SELECT event_type, count(*) FROM staged WHERE reason IS NULL GROUP BY 1 ORDER BY 2 DESC, 1"
    ).fetchall()
    return ImportSummary(
        source=source,
        rows=one("SELECT count(*) FROM staged")[0] + quarantined.get("malformed_line", 0),
        accepted=accepted,
        quarantined=quarantined,
        quarantine_file=quarantine_file,
        time_format=time_format.name,
        first_event=first,
        last_event=last,
        users=users,
        items=items,
        types=dict(types),
    )


def _nothing_accepted(relation: Relation, summary: ImportSummary) -> str:
    if summary.rows == 0:
        return f"{relation.origin} has no rows; there is nothing to import"
    reasons = ", ".join(f"{reason} {count}" for reason, count in summary.quarantined.items())
    return (
        f"none of the {summary.rows} rows of {relation.origin} could be taken ({reasons}); "
        f"look at {summary.quarantine_file} and correct --map or --time-format"
    )


def _count_rejects(con: duckdb.DuckDBPyConnection) -> int:
    if not con.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'reject_errors'").fetchall():
        return 0
    ((count,),) = con.execute("SELECT count(*) FROM reject_errors").fetchall()
    return int(count)


def _stamp(now: datetime) -> str:
    return now.strftime("%Y%m%dT%H%M%S%f")
