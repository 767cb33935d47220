"""The feedback worker's memory from the whole log, in SQL: `UserState.to_json` for every user at once."""

# ruff: noqa: S608  every text in the SQL goes through tabular.literal or is a number
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import ibis
from ibis.backends.duckdb import Backend

from feature_repo.contract import CONTACT_LENGTH, HISTORY_LENGTH
from feature_repo.events import CONTACT, EXPOSURE, NOT_ACTIVITY, OPT_IN, OPT_OUT
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog, Position, read_segments
from feature_repo.settings import FeatureSettings
from feature_repo.stream.user_state import KEPT_ITEMS
from feature_repo.tabular import literal, run, scratch_database, silent

_FETCH_ROWS: Final = 10_000

_USERS: Final = """
    WITH acts AS (
        SELECT user_id, sum(n)::BIGINT AS events, list([first_s, last_s]) AS days FROM (
            SELECT user_id, s // 86400 AS day, count(*) AS n, min(s) AS first_s, max(s) AS last_s
            FROM log WHERE event_type NOT IN ({not_activity}) GROUP BY ALL
        ) GROUP BY ALL
    ),
    history AS (
        SELECT user_id, list([to_json(-s), to_json(item_id), to_json(event_type)] ORDER BY s DESC, item_id, event_type)
            [1:{history}] AS history
        FROM (SELECT DISTINCT user_id, s, item_id, event_type FROM log WHERE engages) GROUP BY ALL
    ),
    contacts AS (
        SELECT user_id, list([to_json(-s), to_json(surface)] ORDER BY s DESC, surface)[1:{contacts}] AS contacts
        FROM (SELECT DISTINCT user_id, s, surface FROM log WHERE event_type = {contact}) GROUP BY ALL
    ),
    choices AS (
        SELECT user_id, map_from_entries(list((surface, [out_s, in_s]))) AS choices FROM (
            SELECT user_id, surface, max(s) FILTER (event_type = {opt_out}) AS out_s,
                max(s) FILTER (event_type = {opt_in}) AS in_s
            FROM log WHERE event_type IN ({opt_out}, {opt_in}) GROUP BY ALL
        ) GROUP BY ALL
    ),
    touched AS (
        SELECT user_id, item_id, s, event_type,
            max(s) FILTER (engages) OVER (PARTITION BY user_id, item_id) AS engaged_s
        FROM log WHERE item_id <> '' AND (engages OR event_type = {exposure})
    ),
    engaged AS (
        SELECT user_id, map_from_entries(list((item_id, engaged_s) ORDER BY engaged_s DESC)[1:{items}]) AS engaged
        FROM (SELECT DISTINCT user_id, item_id, engaged_s FROM touched WHERE engaged_s IS NOT NULL) GROUP BY ALL
    ),
    shown AS (
        SELECT user_id, map_from_entries(list((item_id, times) ORDER BY times[1] DESC)[1:{items}]) AS shown FROM (
            SELECT user_id, item_id, list(s ORDER BY s DESC)[1:{items}] AS times
            FROM touched WHERE event_type = {exposure} AND (engaged_s IS NULL OR s > engaged_s) GROUP BY ALL
        ) GROUP BY ALL
    )
    SELECT user_id, '[' || concat_ws(',', coalesce(events, 0), coalesce(to_json(days), '[]'),
        coalesce(to_json(history), '[]'), coalesce(to_json(contacts), '[]'), coalesce(to_json(choices), '{{}}'),
        coalesce(to_json(engaged), '{{}}'), coalesce(to_json(shown), '{{}}')) || ']'
    FROM (SELECT DISTINCT user_id FROM log) AS every
    LEFT JOIN acts USING (user_id) LEFT JOIN history USING (user_id) LEFT JOIN contacts USING (user_id)
    LEFT JOIN choices USING (user_id) LEFT JOIN engaged USING (user_id) LEFT JOIN shown USING (user_id)
"""
_ITEMS: Final = """
    SELECT item_id, count(*) FILTER (event_type = {exposure}), count(*) FILTER (engages), min(s)
    FROM log WHERE item_id <> '' GROUP BY ALL
"""

_NAMES: Final = {
    "not_activity": ", ".join(map(literal, NOT_ACTIVITY)),
    "history": HISTORY_LENGTH,
    "contacts": CONTACT_LENGTH,
    "items": KEPT_ITEMS,
    "contact": literal(CONTACT),
    "opt_out": literal(OPT_OUT),
    "opt_in": literal(OPT_IN),
    "exposure": literal(EXPOSURE),
}

Rows = Iterator[tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class Seed:
    """The rows of `StreamState` as of `position`. `pending` are the users and items that feedback ever named: whether
    a build knows of it all is not known here."""

    position: Position
    users: Rows
    items: Rows
    pending: Rows


@contextmanager
def seeded(state: StateDir, settings: FeatureSettings) -> Iterator[Seed]:
    """Reads the whole log."""
    log = EventLog(state.events)
    with scratch_database(state.events) as raw, log.frozen() as (segments, end):
        con = ibis.duckdb.from_connection(raw)
        _run(raw, _log_table(ibis.to_sql(log.table(con, segments=segments), dialect="duckdb"), settings))
        _run(raw, f"CREATE TABLE users AS {_USERS.format(**_NAMES)}")
        _run(raw, f"CREATE TABLE items AS {_ITEMS.format(**_NAMES)}")
        _run(raw, f"CREATE TABLE pending AS {_pending(con, segments)}")
        users, items, pending = (_fetched(raw.cursor(), table) for table in ("users", "items", "pending"))
        yield Seed(position=end, users=users, items=items, pending=pending)


def _run(raw: duckdb.DuckDBPyConnection, sql: str) -> None:
    run(raw, sql, {}, step="read the event log", report=silent)


def _log_table(events: str, settings: FeatureSettings) -> str:
    cases = " ".join(f"WHEN {literal(kind)} THEN {weight}" for kind, weight in settings.event_weights.items())
    weight = f"CASE event_type {cases} ELSE {settings.default_event_weight} END"
    return (
        "CREATE TABLE log AS SELECT user_id, coalesce(item_id, '') AS item_id, event_type, "
        f"coalesce(surface, '') AS surface, epoch_us(event_time) // 1000000 AS s, {weight} > 0 AS engages "
        f"FROM ({events})"
    )


def _pending(con: Backend, segments: Sequence[Path]) -> str:
    files = [file for file in segments if file.stat().st_size]
    if not files:
        return "SELECT '' AS entity, '' AS id WHERE false"
    feedback = ibis.to_sql(read_segments(con, files), dialect="duckdb")
    return (
        f"WITH feedback AS ({feedback}) SELECT DISTINCT 'user_id', user_id FROM feedback "
        "UNION ALL SELECT DISTINCT 'item_id', item_id FROM feedback WHERE item_id <> ''"
    )


def _fetched(cursor: Any, table: str) -> Rows:
    found = cursor.execute(f"SELECT * FROM {table}")
    while rows := found.fetchmany(_FETCH_ROWS):
        yield from rows
