"""Whom and what the requests are about: ids from files, and seeded draws of users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from loadtest.errors import LoadTestError
from loadtest.profiles import UserMix


@dataclass(frozen=True, slots=True)
class DrawnUser:
    """`kind` is head, tail or unseen."""

    user_id: str
    kind: str


class UserDraws:
    """Draws users from a Zipf head, a long tail, and ids never seen; the same seed draws the same users."""

    def __init__(self, user_ids: Sequence[str], mix: UserMix, *, seed: int) -> None:
        """`user_ids`: the most active first."""
        self._ids = user_ids
        self._known = frozenset(user_ids)
        self._random = np.random.default_rng(seed)
        self._seed = seed
        self._unseen = 0
        self._head_size = min(len(user_ids), max(1, round(len(user_ids) * mix.head_fraction)))
        weights = np.arange(1, self._head_size + 1) ** -mix.zipf_exponent  # [head]
        self._head_cumulative = np.cumsum(weights / weights.sum())  # [head]
        self._kinds, shares = _shares(mix, has_head=bool(user_ids), has_tail=len(user_ids) > self._head_size)
        self._kind_cumulative = np.cumsum(shares)  # [kinds]

    def draw(self) -> DrawnUser:
        kind = self._kinds[self._index(self._kind_cumulative)]
        if kind == "head":
            return DrawnUser(self._ids[self._index(self._head_cumulative)], kind)
        if kind == "tail":
            return DrawnUser(self._ids[int(self._random.integers(self._head_size, len(self._ids)))], kind)
        return DrawnUser(self._unseen_id(), kind)

    def _index(self, cumulative: np.ndarray) -> int:
        return min(int(np.searchsorted(cumulative, self._random.random(), side="right")), len(cumulative) - 1)

    def _unseen_id(self) -> str:
        while True:
            self._unseen += 1
            user_id = f"loadtest-unseen-{self._seed}-{self._unseen}"
            if user_id not in self._known:
                return user_id


def _shares(mix: UserMix, *, has_head: bool, has_tail: bool) -> tuple[list[str], np.ndarray]:
    possible = {"head": has_head, "tail": has_tail, "unseen": True}
    weights = {kind: weight for kind, weight in mix.weights().items() if possible[kind] and weight > 0}
    if not weights:
        raise LoadTestError(
            f"the user mix {mix.weights()} asks only for users that the ids do not have; "
            "give more user ids, or some weight to unseen"
        )
    shares = np.fromiter(weights.values(), float)  # [kinds]
    return list(weights), shares / shares.sum()


def synthetic_ids(kind: str, count: int) -> list[str]:
    return [f"{kind}-{number}" for number in range(1, count + 1)]


def read_ids(path: Path, column: str) -> list[str]:
    """Ids of a Parquet file (`column`, the most `events` first if it has that) or of a text file, one a line."""
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        if path.suffix == ".parquet" and not is_parquet:
            raise LoadTestError(f"{path} is not a Parquet file; write one, or give a text file with one id a line")
        ids = _parquet_ids(path, column) if is_parquet else _text_ids(path)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise LoadTestError(f"cannot read ids from {path}: {error}") from error
    if not ids:
        raise LoadTestError(f"{path} has no ids; give a file with one id a line, or Parquet with {column}")
    return ids


def _text_ids(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text("utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def _parquet_ids(path: Path, column: str) -> list[str]:
    names = pq.read_schema(path).names
    if column not in names:
        raise LoadTestError(f"{path} has no column {column}; it has {', '.join(names) or 'none'}")
    ordered = "events" in names
    table = pq.read_table(path, columns=[column, "events"] if ordered else [column])
    if ordered:
        table = table.sort_by([("events", "descending"), (column, "ascending")])
    return list(dict.fromkeys(str(value) for value in table.column(column).to_pylist() if value is not None))
