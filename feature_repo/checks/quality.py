"""The gate before the online store: what must hold of every table, and what has moved since the last one loaded.

Rules follow from the contract: a column's type, the range of its unit, which lists go together. DuckDB checks them on
the Parquet files, so that no table needs to fit in memory.
"""

# ruff: noqa: S608  every name in the SQL goes through tabular.quoted, every text through tabular.literal
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import duckdb
import pyarrow.parquet as pq

from feature_repo.checks import drift
from feature_repo.checks.drift import Distribution
from feature_repo.contract import ALIGNED, GAPS, PLACES, VIEWS, Dtype, Feature, View
from feature_repo.errors import LongtailError
from feature_repo.layout import StateDir
from feature_repo.lifecycle import Lifecycle
from feature_repo.online.value_bytes import ARROW_TYPES
from feature_repo.settings import QualitySettings
from feature_repo.tables.build import EVENT_TIMESTAMP, offline_file
from feature_repo.tabular import literal, quoted

EXAMPLES: Final = 3

_ROUNDING: Final = 1e-3
_FROM_0_TO_1: Final = ("probability", "share", "share of users", "share of items", "shrunk cosine", "cosine")
_NOT_NEGATIVE: Final = ("events", "users", "days", "active days", "contacts", "exposures", "bits", "version")
_FLOATS: Final = (Dtype.FLOAT32, Dtype.FLOAT32S)
_LISTS: Final = (Dtype.STRINGS, Dtype.INT64S, Dtype.FLOAT32S)


class QualityError(LongtailError):
    """The tables must not be loaded as they are."""


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A rule that some rows break; `examples` are their keys. No rows: the table as a whole breaks it."""

    view: str
    feature: str
    rule: str
    rows: int = 0
    of: int = 0
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{self.view}.{self.feature}" if self.feature else self.view
        who = f"; {self.rows} of {self.of} rows are not, such as {', '.join(self.examples)}" if self.rows else ""
        return f"{where}: {self.rule}{who}"


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A feature's population stability index against the table last loaded."""

    view: str
    feature: str
    psi: float

    def __str__(self) -> str:
        return f"{self.view}.{self.feature} has a population stability index of {self.psi:.2f}"


@dataclass(frozen=True, kw_only=True)
class CheckedTable:
    """One view's table."""

    view: str
    rows: int
    rules: int
    profile: Mapping[str, Distribution]


@dataclass(frozen=True, kw_only=True)
class QualityReport:
    """`drifted` are the features to name, most moved first."""

    tables: tuple[CheckedTable, ...]
    broken: tuple[Broken, ...]
    drifted: tuple[Drift, ...]


def validate(state: StateDir, limits: QualitySettings) -> QualityReport:
    """Checks every table that is there, and writes what it found to `features/.build/quality.json`.

    Raises QualityError when there is no table.
    """
    views = [view for view in VIEWS if offline_file(state, view).exists()]
    if not views:
        raise QualityError(f"nothing is built in {state.features}; run `longtail features build`")
    before = _read_accepted(state)
    tables, broken, drifts = [], list[Broken](), list[Drift]()
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        for view in views:
            table, its_broken, its_drifts = _check(con, state, view, before.get(view.name), limits)
            tables.append(table)
            broken += its_broken
            drifts += its_drifts
    drifts.sort(key=lambda one: -one.psi)
    report = QualityReport(
        tables=tuple(tables), broken=tuple(broken), drifted=tuple(one for one in drifts if one.psi > limits.warn_psi)
    )
    _write(_folder(state) / "quality.json", asdict(report))
    return report


def refuse(report: QualityReport) -> None:
    """Raises QualityError when a rule is broken."""
    if report.broken:
        raise QualityError(
            f"{len(report.broken)} rules are broken, the first: {report.broken[0]}. Mend the log or the settings and "
            "build again, or load them as they are with `longtail features materialize --accept REASON`"
        )


def gate(state: StateDir, limits: QualitySettings, *, accept: str | None, now: datetime) -> QualityReport:
    """`validate`, and `refuse` unless a reason is given, which is kept in `features/.build/accepted.jsonl`."""
    report = validate(state, limits)
    if accept is None:
        refuse(report)
    elif report.broken:
        entry = {"at": now.isoformat(), "reason": accept, "broken": [asdict(one) for one in report.broken]}
        with (_folder(state) / "accepted.jsonl").open("a") as record:
            record.write(json.dumps(entry) + "\n")
    return report


def remember(state: StateDir, report: QualityReport) -> None:
    """These tables are online now: the next are compared with them."""
    kept = {table.view: {"rows": table.rows, "profile": _as_json(table.profile)} for table in report.tables}
    _write(_folder(state) / "profile.json", kept)


def _check(
    con: duckdb.DuckDBPyConnection,
    state: StateDir,
    view: View,
    before: tuple[int, Mapping[str, Distribution]] | None,
    limits: QualitySettings,
) -> tuple[CheckedTable, list[Broken], list[Drift]]:
    file = offline_file(state, view)
    wrong = list(_wrong_columns(file, view))
    if wrong:  # the rules are of other columns
        return CheckedTable(view=view.name, rows=0, rules=len(view.features), profile={}), wrong, []
    con.execute(f"CREATE OR REPLACE VIEW checked AS SELECT * FROM read_parquet({literal(str(file))})")
    rules = list(_rules(view))
    rows, broken = _broken(con, view, rules)
    if before is not None and rows < before[0] * (1 - limits.max_row_loss):
        rule = f"has {rows} rows, the table last loaded had {before[0]}; at most {limits.max_row_loss:.0%} may go"
        broken.append(Broken(view=view.name, feature="", rule=rule))
    is_enough = before is not None and min(rows, before[0]) >= drift.LEAST_ROWS
    moved = drift.compare(con, "checked", view, before[1]) if before is not None and is_enough else {}
    drifts = [Drift(view=view.name, feature=name, psi=value) for name, value in moved.items()]
    for one in drifts:
        if limits.max_psi and one.psi > limits.max_psi:
            rule = f"has moved by a population stability index of {one.psi:.2f}; at most {limits.max_psi:g} is allowed"
            broken.append(Broken(view=view.name, feature=one.feature, rule=rule))
    profile = drift.profile(con, "checked", view)
    return CheckedTable(view=view.name, rows=rows, rules=len(rules), profile=profile), broken, drifts


def _wrong_columns(file: Path, view: View) -> Iterator[Broken]:
    schema = pq.read_schema(file)
    for feature in view.features:
        place = schema.get_field_index(feature.name)
        found = "missing" if place < 0 else _plain(schema.field(place).type)
        expected = _plain(ARROW_TYPES[feature.dtype])
        if found != expected:
            rule = f"is {found}, the contract says {expected}; build again with this version"
            yield Broken(view=view.name, feature=feature.name, rule=rule)


def _plain(kind: object) -> str:
    """Arrow's name of a type, without what a list's elements are called and whether they may be null."""
    return str(kind).replace(" not null", "").replace("element: ", "").replace("item: ", "")


def _rules(view: View) -> Iterator[tuple[str, str, str]]:
    """(feature, what must be, as an SQL condition)."""
    key = quoted(view.entity)
    yield view.entity, "must be there", f"{key} IS NOT NULL AND {key} <> ''"
    yield view.entity, "must be in one row only", f"count(*) OVER (PARTITION BY {key}) = 1"
    for feature in view.features:
        yield from ((feature.name, rule, condition) for rule, condition in _of_feature(feature))
    names = view.feature_names()
    for length, group in ALIGNED:
        if group[0] not in names:
            continue
        lists = [quoted(name) for name in group]
        yield (
            group[0],
            "must be as long as those beside it",
            " AND ".join(f"len({one}) = len({lists[0]})" for one in lists),
        )
        if length is not None:
            yield group[0], f"must have at most {length} entries", f"len({lists[0]}) <= {length}"
    for name, listed in PLACES.items():
        if name in names:
            words, place = f"len({quoted(listed)})", quoted(name)
            yield name, f"must be places in {listed}", f"list_min({place}) >= 0 AND list_max({place}) < {words}"


def _of_feature(feature: Feature) -> Iterator[tuple[str, str]]:
    name = quoted(feature.name)
    is_list = feature.dtype in _LISTS
    low, high = (f"list_min({name})", f"list_max({name})") if is_list else (name, name)
    if feature.dtype in _FLOATS:
        every = (
            f"len(list_filter({name}, lambda x: x IS NULL OR NOT isfinite(x))) = 0" if is_list else f"isfinite({name})"
        )
        yield "must be a number", every
    if feature.unit in _FROM_0_TO_1:
        yield "must be from 0 to 1", f"{low} >= {-_ROUNDING} AND {high} <= {1 + _ROUNDING}"
    if feature.unit in _NOT_NEGATIVE:
        yield "must not be negative", f"{low} >= {-_ROUNDING}"
    if feature.unit == GAPS:
        yield "must be newest first", f"{low} >= 0"
        yield "must not be later than the row's time", f"{name}[1] <= epoch({EVENT_TIMESTAMP})"
    elif feature.unit.startswith("s since"):
        yield "must not be later than the row's time", f"{high} <= epoch({EVENT_TIMESTAMP})"
    if feature.unit == "lifecycle":
        yield f"must be one of {', '.join(Lifecycle)}", f"{name} IN ({', '.join(map(literal, Lifecycle))})"


def _broken(con: duckdb.DuckDBPyConnection, view: View, rules: list[tuple[str, str, str]]) -> tuple[int, list[Broken]]:
    """How many rows there are, and the rules they break; what is missing breaks no range."""
    conditions = ", ".join(f"NOT coalesce({condition}, true) AS r{n}" for n, (_, _, condition) in enumerate(rules))
    key = f"coalesce(CAST({quoted(view.entity)} AS VARCHAR), '(missing)')"
    counted = ", ".join(f"count(*) FILTER (r{n}), min(key, {EXAMPLES}) FILTER (r{n})" for n in range(len(rules)))
    row = con.execute(f"SELECT count(*), {counted} FROM (SELECT {key} AS key, {conditions} FROM checked)").fetchone()
    assert row is not None
    found = [
        Broken(
            view=view.name, feature=feature, rule=rule, rows=row[1 + 2 * n], of=row[0], examples=tuple(row[2 + 2 * n])
        )
        for n, (feature, rule, _) in enumerate(rules)
        if row[1 + 2 * n]
    ]
    return row[0], found


def _read_accepted(state: StateDir) -> dict[str, tuple[int, dict[str, Distribution]]]:
    """Rows and distributions of the tables last loaded; nothing when none were, or by another version."""
    try:
        kept = json.loads((_folder(state) / "profile.json").read_text())
        return {
            name: (one["rows"], {feature: Distribution(**shape) for feature, shape in one["profile"].items()})
            for name, one in kept.items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _as_json(profile: Mapping[str, Distribution]) -> dict[str, object]:
    return {name: asdict(one) for name, one in profile.items()}


def _write(file: Path, content: object) -> None:
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_text(json.dumps(content) + "\n")
    unfinished.replace(file)


def _folder(state: StateDir) -> Path:
    folder = state.features / ".build"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
