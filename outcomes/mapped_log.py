"""Anyone's bandit log, as Parquet or CSV with mapped columns, and another policy as a table → rounds.

The log has one row a shown item. The other policy is a column of its probabilities of the logged item, or a table of
(item, probability) and, where it differs by place, place: the same for every request.
"""

# ruff: noqa: S608  every name in the SQL goes through tabular.quoted
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import numpy as np

from feature_repo.tabular import Relation, open_files
from outcomes.errors import OutcomeError
from outcomes.estimate import Floats, Integers
from outcomes.off_policy import Rounds
from outcomes.reward_model import cross_fitted, fold_of

NEEDED: Final = ("item", "reward", "propensity")
OPTIONAL: Final = ("place", "decision", "target")


@dataclass(frozen=True, kw_only=True)
class TargetPolicy:
    """π_e(item | place) of a policy that is the same for every request. [places, items]"""

    probability: Floats


def read_rounds(log: str, columns: Mapping[str, str], *, target: str | None = None, where: str | None = None) -> Rounds:
    """Raises OutcomeError or DataError that names the column, the file or the table that is wrong."""
    _check_names(columns, target)
    with duckdb.connect() as con:
        relation = open_files(con, log)
        rows = _fetch(con, relation, columns, where)
        if target is None:
            return _rounds(rows, target=np.asarray(rows["target"], np.float64), policy=None)
        items, places = np.unique(rows["item"]), np.unique(rows["place"])
        policy = _read_target(con, target, items=items, places=places)
    action, place = np.searchsorted(items, rows["item"]), np.searchsorted(places, rows["place"])
    return _rounds(rows, target=policy.probability[place, action], policy=policy, action=action, place=place)


def _check_names(columns: Mapping[str, str], target: str | None) -> None:
    known = (*NEEDED, *OPTIONAL)
    unknown, missing = sorted(set(columns) - set(known)), [name for name in NEEDED if name not in columns]
    if unknown or missing:
        said = f"unknown {', '.join(unknown)}" if unknown else f"missing {', '.join(missing)}"
        raise OutcomeError(
            f"--map: {said}; give item=COLUMN reward=COLUMN propensity=COLUMN, and where the log has them "
            "place=COLUMN, decision=COLUMN (rounds that belong together) and target=COLUMN (the other policy's "
            "probability of the logged item)"
        )
    if (target is None) == ("target" not in columns):
        raise OutcomeError("give the other policy once: as --map target=COLUMN, or as --target FILE")


def _fetch(
    con: duckdb.DuckDBPyConnection, relation: Relation, columns: Mapping[str, str], where: str | None
) -> dict[str, Any]:
    kinds = {"item": "VARCHAR", "place": "VARCHAR", "decision": "VARCHAR"}
    picked = ", ".join(
        f"CAST({relation.column(column)} AS {kinds.get(name, 'DOUBLE')}) AS {name}" for name, column in columns.items()
    )
    try:
        found = con.execute(f"SELECT {picked} FROM {relation.sql} {_filter(relation, where)}").fetchnumpy()
    except duckdb.Error as error:
        raise OutcomeError(f"cannot read {relation.origin}: {error}") from error
    count = len(found["reward"])
    rows: dict[str, Any] = {name: _plain(name, values, relation.origin) for name, values in found.items()}
    rows.setdefault("place", np.zeros(count, dtype=np.str_))
    rows.setdefault("decision", np.arange(count))
    return rows


def _filter(relation: Relation, where: str | None) -> str:
    """`COLUMN=VALUE`, as text."""
    if where is None:
        return ""
    column, equals, value = where.partition("=")
    if not equals:
        raise OutcomeError(f"--where is {where!r}; give COLUMN=VALUE, such as policy=random")
    quoted = value.replace("'", "''")
    return f"WHERE CAST({relation.column(column)} AS VARCHAR) = '{quoted}'"


def _plain(name: str, values: Any, origin: str) -> Any:
    if np.ma.is_masked(values):
        raise OutcomeError(f"{origin}: {name} is empty in {int(values.mask.sum())} rows; fill it or leave them out")
    plain = np.ma.getdata(values)
    return plain.astype(np.str_) if plain.dtype == object else plain


def _read_target(con: duckdb.DuckDBPyConnection, file: str, *, items: Any, places: Any) -> TargetPolicy:
    relation = open_files(con, file)
    has_place = any(name.lower() == "place" for name in relation.columns)
    place = f"CAST({relation.column('place')} AS VARCHAR)" if has_place else "NULL"
    try:
        found = con.execute(
            f"SELECT CAST({relation.column('item')} AS VARCHAR) AS item, {place} AS place, "
            f"CAST({relation.column('probability')} AS DOUBLE) AS probability FROM {relation.sql}"
        ).fetchall()
    except duckdb.Error as error:
        raise OutcomeError(f"cannot read the policy {relation.origin}: {error}") from error
    row_of = {name: row for row, name in enumerate(items.tolist())}
    probability = np.zeros((len(places), len(items)))
    mass = np.zeros(len(places))
    for item, at, share in found:
        if share is None or not 0 <= share <= 1:
            raise OutcomeError(f"{relation.origin}: the probability of item {item!r} is {share}; give 0 to 1")
        for row, name in enumerate(places.tolist()):
            if at is None or at == name:
                mass[row] += share
                if item in row_of:
                    probability[row, row_of[item]] += share
    if (np.abs(mass - 1) > 1e-6).any():
        worst = int(np.abs(mass - 1).argmax())
        raise OutcomeError(
            f"{relation.origin}: the probabilities at place {places[worst]!r} add up to {mass[worst]:.6g}; they must "
            "add up to 1 at each place of the log, items the log never shows included"
        )
    return TargetPolicy(probability=probability)


def _rounds(
    rows: dict[str, Any],
    *,
    target: Floats,
    policy: TargetPolicy | None,
    action: Integers | None = None,
    place: Integers | None = None,
) -> Rounds:
    _, cluster = np.unique(rows["decision"], return_inverse=True)
    logged = {"reward": np.asarray(rows["reward"], np.float64), "propensity": np.asarray(rows["propensity"])}
    if policy is None or action is None or place is None:
        return Rounds(target=target, cluster=cluster, **logged)
    places, items = policy.probability.shape
    rates = cross_fitted(
        reward=logged["reward"], action=action, place=place, cluster=cluster, actions=items, places=places
    )  # [folds, places, items]
    fold = fold_of(cluster, len(rates))
    shown = np.zeros_like(policy.probability, dtype=bool)
    shown[place, action] = True
    covered = np.where(shown, policy.probability, 0).sum(1)  # [places]
    mean = (rates * policy.probability).sum(2) / np.maximum(policy.probability.sum(1), 1e-300)  # [folds, places]
    return Rounds(
        target=target,
        cluster=cluster,
        expected_logged=rates[fold, place, action],
        expected_target=mean[fold, place],
        unsupported_mass=(1 - covered)[place],
        **logged,
    )
