"""How far a feature has moved: the population stability index against the tables that were last loaded online.

PSI = Σ (p − q) ln(p / q) over ten bins of equal share in the older table, or its most frequent values, missing being a
bin of its own (Siddiqi 2006: below 0.1 little, above 0.25 a shift). A list counts by its length.
"""

# ruff: noqa: S608  every name in the SQL goes through tabular.quoted, every text through tabular.literal
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import duckdb

from feature_repo.contract import Dtype, Feature, View
from feature_repo.tabular import literal, quoted

BINS: Final = 10
VALUES: Final = 20
LEAST_ROWS: Final = 100  # of both tables: below, a few rows that change bins look like a shift
LEAST_SHARE: Final = 1e-4  # of a bin, so that an empty one does not make the index infinite

_FREE_TEXT: Final = ("title",)  # differs from row to row
_LISTS: Final = (Dtype.STRINGS, Dtype.INT64S, Dtype.FLOAT32S)
_WORDS: Final = (Dtype.STRING, Dtype.BOOL)


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Of one feature. `bounds` lie between bins, or are the values of words; `shares` end with others and missing."""

    bounds: list[Any]
    shares: list[float]


def profile(con: duckdb.DuckDBPyConnection, table: str, view: View) -> dict[str, Distribution]:
    """Of each feature, in bins of its own."""
    return {
        feature.name: shares(con, table, feature, _bounds(con, table, feature))
        for feature in view.features
        if _is_comparable(feature)
    }


def compare(
    con: duckdb.DuckDBPyConnection, table: str, view: View, before: Mapping[str, Distribution]
) -> dict[str, float]:
    """The index of each feature that `before` knows."""
    known = [feature for feature in view.features if feature.name in before]
    return {
        feature.name: psi(before[feature.name].shares, shares(con, table, feature, before[feature.name].bounds).shares)
        for feature in known
    }


def psi(before: list[float], now: list[float]) -> float:
    """
    >>> psi([0.5, 0.5], [0.5, 0.5])
    0.0
    >>> round(psi([0.5, 0.5], [0.9, 0.1]), 3)
    0.879
    """
    pairs = [(max(q, LEAST_SHARE), max(p, LEAST_SHARE)) for q, p in zip(before, now, strict=True)]
    return sum((p - q) * math.log(p / q) for q, p in pairs)


def shares(con: duckdb.DuckDBPyConnection, table: str, feature: Feature, bounds: list[Any]) -> Distribution:
    value = _value(feature)
    if feature.dtype in _WORDS:
        bins = [f"{value} = {literal(str(bound))}" for bound in bounds]
    else:  # up to the first bound, from one to the next, beyond the last
        bins = [f"{value} <= {bound!r}" for bound in bounds]
        bins = [
            *bins[:1],
            *(f"{value} > {low!r} AND {value} <= {high!r}" for low, high in pairwise(bounds)),
        ]
    counts = ", ".join(f"count(*) FILTER ({bin})" for bin in bins)
    row = con.execute(
        f"SELECT count(*), count(*) FILTER ({value} IS NULL){', ' if counts else ''}{counts} FROM {table}"
    ).fetchone() or (0, 0)
    total, missing, inside = row[0], row[1], list(row[2:])
    every = [*inside, total - missing - sum(inside), missing]
    return Distribution(bounds=bounds, shares=[count / total if total else 0.0 for count in every])


def _bounds(con: duckdb.DuckDBPyConnection, table: str, feature: Feature) -> list[Any]:
    value = _value(feature)
    if feature.dtype in _WORDS:
        query = (
            f"SELECT {value} AS v FROM {table} WHERE v IS NOT NULL GROUP BY v ORDER BY count(*) DESC, v LIMIT {VALUES}"
        )
        return [row[0] for row in con.execute(query).fetchall()]
    steps = [number / BINS for number in range(1, BINS)]
    found = con.execute(f"SELECT quantile_disc({value}, {steps}) FROM {table}").fetchone()
    return sorted(set(found[0])) if found and found[0] else []


def _value(feature: Feature) -> str:
    name = quoted(feature.name)
    if feature.dtype in _LISTS:
        return f"len({name})::DOUBLE"
    if feature.dtype in _WORDS:
        return f"CAST({name} AS VARCHAR)"
    return f"{name}::DOUBLE"


def _is_comparable(feature: Feature) -> bool:
    """Not a time: it moves on with every build. What it means shows in visits, states and counts."""
    is_time = feature.dtype is Dtype.INT64 and feature.unit.startswith("s since")
    return not is_time and feature.name not in _FREE_TEXT
