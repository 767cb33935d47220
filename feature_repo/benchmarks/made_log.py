"""A made-up event log of any size: visits of a few events each, by users and of items with heavy tails."""

# ruff: noqa: S608  nothing but numbers and own paths go into the SQL
from __future__ import annotations

from pathlib import Path
from typing import Final

import duckdb

from feature_repo.log.event_log import COLUMNS
from feature_repo.tabular import literal

DAYS: Final = 365
EVENTS_PER_VISIT: Final = 5
EVENTS_PER_USER: Final = 20
ITEMS: Final = 50_000
CATEGORIES: Final = 200

# Shares of a shop's log. A number from 0 to 99 falls under the first bound above it.
_TYPES: Final = {"view": 60, "exposure": 75, "click": 90, "add_to_cart": 95, "purchase": 99, "contact": 100}


def write_events(
    file: Path, events: int, *, first: int = 0, seed: int = 1, days: tuple[float, float] = (0, DAYS)
) -> None:
    """Events number `first` to `first + events`, in random order of time between two days from 2026-01-01.

    A user's chance of a visit falls with the power 0.6 of the user's number, an item's of an event likewise.
    """
    visit = f"i // {EVENTS_PER_VISIT}"
    users = max((first + events) // EVENTS_PER_USER, 1)
    kinds = " ".join(
        f"WHEN {_chance('i', 'kind', seed)} * 100 < {bound} THEN '{name}'" for name, bound in _TYPES.items()
    )
    begin, end = (day * 86_400_000_000 for day in days)
    values = {
        "event_id": "'e' || i",
        "user_id": f"'user-' || {_tail(_chance(visit, 'user', seed), users)}",
        "item_id": f"'item-' || {_tail(_chance('i', 'item', seed), ITEMS)}",
        "event_type": f"CASE {kinds} END",
        "event_time": f"TIMESTAMPTZ '2026-01-01 00:00:00+00' + to_microseconds(CAST({begin} + "
        f"{_chance(visit, 'time', seed)} * {end - begin} AS BIGINT) + i % {EVENTS_PER_VISIT} * 40000000)",
        "value": "NULL",
        "surface": "'home'",
        "decision_id": "''",
    }
    columns = ", ".join(f"CAST({values[name]} AS {kind}) AS {name}" for name, kind in COLUMNS.items())
    _write(file, f"SELECT {columns} FROM range({first}, {first + events}) AS numbers(i)")


def write_items(file: Path) -> None:
    """The catalogue of the same items."""
    columns = (
        "'item-' || i AS item_id, 'Item ' || i AS title, 'category-' || category AS category, "
        "['category-' || category] AS categories, '' AS text, CAST(1 + i % 90 AS FLOAT) AS price, false AS withdrawn"
    )
    _write(
        file, f"SELECT {columns} FROM (SELECT i, hash(i) % {CATEGORIES} AS category FROM range({ITEMS}) AS numbers(i))"
    )


def _chance(number: str, purpose: str, seed: int) -> str:
    """Uniform from 0 to 1, the same for the same number."""
    return f"(hash({number}, '{purpose}', {seed}) / 18446744073709551616.0)"


def _tail(chance: str, size: int) -> str:
    """A number below `size`: P(number) ∝ number^-0.6, so that of a million the first gets 0.4 %."""
    return f"CAST(floor({size} * pow({chance}, 2.5)) AS BIGINT)"


def _write(file: Path, query: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        con.execute(f"COPY ({query}) TO {literal(str(file))} (FORMAT parquet, COMPRESSION zstd)")
