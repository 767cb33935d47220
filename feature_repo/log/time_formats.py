"""How a file writes its times, told from a sample or said by the user."""

# ruff: noqa: S608  every name and text in the SQL goes through tabular.quoted and tabular.literal
from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import duckdb

from feature_repo.tabular import DataError, Relation

# Multiply by this for microseconds, and the largest |median| that is taken as this unit.
_EPOCHS: Final = {
    "epoch_s": (1e6, 1e11),  # to the year 5138
    "epoch_ms": (1e3, 1e14),
    "epoch_us": (1.0, 1e17),
    "epoch_ns": (1e-3, float("inf")),
}
_NUMERIC: Final = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
    "FLOAT",
    "DOUBLE",
)
_LOWEST_US: Final = -62_135_596_800_000_000  # the year 1
_HIGHEST_US: Final = 253_402_300_799_999_999  # the year 9999
_SAMPLE_ROWS: Final = 10_000


@dataclass(frozen=True)
class TimeFormat:
    """`name` is a type, `iso`, an `epoch_…` unit, or a strptime format. Times without a zone are UTC."""

    name: str

    def expression(self, column: str) -> str:
        """SQL for the column as TIMESTAMPTZ, NULL where it cannot be read."""
        if self.name == "timestamptz":
            return column
        if self.name == "timestamp":
            return f"timezone('UTC', CAST({column} AS TIMESTAMP))"
        if self.name == "iso":
            return f"TRY_CAST(trim(CAST({column} AS VARCHAR)) AS TIMESTAMPTZ)"
        if self.name in _EPOCHS:
            micros = f"TRY_CAST(round(TRY_CAST({column} AS DOUBLE) * {_EPOCHS[self.name][0]}) AS BIGINT)"
            in_range = f"{micros} BETWEEN {_LOWEST_US} AND {_HIGHEST_US}"
            return f"timezone('UTC', make_timestamp(CASE WHEN {in_range} THEN {micros} END))"
        pattern = self.name.replace("'", "''")
        parsed = f"try_strptime(CAST({column} AS VARCHAR), '{pattern}')"
        return parsed if "%z" in self.name.lower() else f"timezone('UTC', {parsed})"


def detect_time_format(con: duckdb.DuckDBPyConnection, relation: Relation, column: str, given: str) -> TimeFormat:
    """What the user said; for `auto`, what the column's type or a sample of its values say."""
    if given in _EPOCHS or given == "iso" or "%" in given:
        return TimeFormat(given)
    if given != "auto":
        allowed = ", ".join(["auto", "iso", *_EPOCHS])
        raise DataError(f"--time-format is {given!r}; give {allowed}, or a format such as '%d/%m/%Y %H:%M'")
    kind = relation.type_of(column)
    if kind == "TIMESTAMP WITH TIME ZONE":
        return TimeFormat("timestamptz")
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        return TimeFormat("timestamp")
    return _from_values(con, relation, column, is_number=kind in _NUMERIC or kind.startswith("DECIMAL"))


def _from_values(con: duckdb.DuckDBPyConnection, relation: Relation, column: str, *, is_number: bool) -> TimeFormat:
    name = relation.column(column)
    sql = f"""
        SELECT count(text), count(number), count(day), median(abs(number)) FILTER (isfinite(number))
        FROM (
            SELECT CAST({name} AS VARCHAR) AS text, TRY_CAST({name} AS DOUBLE) AS number,
                CASE WHEN regexp_full_match(text, '(19|20)[0-9]{{6}}') THEN try_strptime(text, '%Y%m%d') END AS day
            FROM {relation.sql} WHERE {name} IS NOT NULL LIMIT {_SAMPLE_ROWS}
        )
    """
    try:
        row = con.execute(sql).fetchone()
    except duckdb.Error as error:
        raise DataError(f"cannot read the times of {relation.origin}: {error}") from error
    finally:
        con.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")  # the sample's
    texts, numbers, days, median = row or (0, 0, 0, None)
    if texts and days >= 0.9 * texts:
        return TimeFormat("%Y%m%d")
    if median is not None and (is_number or numbers > 0.5 * texts):
        return TimeFormat(next(unit for unit, (_, limit) in _EPOCHS.items() if median < limit))
    return TimeFormat("iso")
