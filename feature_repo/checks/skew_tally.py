"""What serving used beside what the log gives for the same moment, feature by feature: pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from feature_repo.contract import FeatureValue

EXAMPLES: Final = 10

_RELATIVE: Final = 1e-5  # features are kept in single precision
_ABSOLUTE: Final = 1e-6

Cells = Mapping[str, FeatureValue]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A user's or an item's row at a moment, as served and from the log; None where that side has no row."""

    entity_id: str
    at: datetime
    served: Cells | None
    offline: Cells | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One row's two values, None where one is missing. `size` is how far apart two numbers, or lists of them, are."""

    entity_id: str
    at: datetime
    served: FeatureValue
    offline: FeatureValue
    size: float | None


@dataclass(frozen=True, kw_only=True)
class FeatureSkew:
    """`compared` = `equal` + `different` + `missing_online` + `missing_offline`; `examples` have the largest first."""

    view: str
    feature: str
    compared: int
    different: int
    missing_online: int
    missing_offline: int
    examples: tuple[Difference, ...]

    @property
    def unequal(self) -> int:
        return self.different + self.missing_online + self.missing_offline

    @property
    def equal(self) -> int:
        return self.compared - self.unequal

    @property
    def largest(self) -> float | None:
        """None when nothing differs by a number."""
        return max((one.size for one in self.examples if one.size is not None), default=None)


def compare(view: str, names: Sequence[str], pairs: Sequence[Pair]) -> list[FeatureSkew]:
    """One tally for each feature; a pair without a row on either side is none."""
    known = [pair for pair in pairs if pair.served is not None or pair.offline is not None]
    return [_tally(view, name, known) for name in names]


def _tally(view: str, name: str, pairs: Sequence[Pair]) -> FeatureSkew:
    found = list(_differences(name, pairs))
    missing_online = sum(one.served is None for one in found)
    missing_offline = sum(one.offline is None for one in found)
    found.sort(key=lambda one: -(one.size if one.size is not None else 0.0))
    return FeatureSkew(
        view=view,
        feature=name,
        compared=len(pairs),
        different=len(found) - missing_online - missing_offline,
        missing_online=missing_online,
        missing_offline=missing_offline,
        examples=tuple(found[:EXAMPLES]),
    )


def _differences(name: str, pairs: Sequence[Pair]) -> Iterator[Difference]:
    for pair in pairs:
        served, offline = _value(pair.served, name), _value(pair.offline, name)
        if not is_same(served, offline):
            yield Difference(
                entity_id=pair.entity_id, at=pair.at, served=served, offline=offline, size=_distance(served, offline)
            )


def is_same(one: FeatureValue, other: FeatureValue) -> bool:
    """
    >>> is_same([0.1, 2.0], [0.1000000001, 2.0]), is_same([1], [1, 2]), is_same(None, 0)
    (True, False, False)
    """
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    return one == other


def _distance(one: FeatureValue, other: FeatureValue) -> float | None:
    """
    >>> _distance([1, 5], [1, 2]), _distance("a", "b"), _distance(2.5, 1)
    (3.0, None, 1.5)
    """
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return None
        sizes = list(map(_distance, one, other))
        return max((size for size in sizes if size is not None), default=None)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(float(one) - float(other))
    return None


def _value(row: Cells | None, name: str) -> FeatureValue:
    value = None if row is None else row[name]
    return None if isinstance(value, float) and math.isnan(value) else value
