"""Item statistics in memory: one numpy column per statistic, one row per item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt

from serving.gateway.domain import Floats, Ints, ItemId, Source


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemTable:
    """Immutable; a newer one replaces it whole. Each statistic ends with the unknown item, as cold as can be."""

    index: Mapping[str, int]
    ids: tuple[ItemId, ...]
    titles: tuple[str, ...]
    novelty: Floats  # [items + 1], 1 is the item fewest users engaged with
    popularity: Floats  # [items + 1], share of items with fewer engagements
    freshness: Floats  # [items + 1], share of items first seen earlier
    rates: Floats  # [items + 1], of those shown the item who engaged; the mean where nobody was shown it
    trials: Floats  # [items + 1], how many times it was shown
    categories: Ints  # [items + 1], 0 is unknown
    category_names: Mapping[int, str]
    withdrawn_ids: frozenset[ItemId]
    by_popularity: npt.NDArray[np.intp]  # [items], best first
    by_freshness: npt.NDArray[np.intp]  # [items], newest first

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[object]]) -> ItemTable:
        """From the columns of the view `item_stats`."""
        ids = tuple(ItemId(str(item_id)) for item_id in columns["item_id"])
        withdrawn = np.asarray([bool(value) for value in columns["withdrawn"]], bool)  # [items]
        popularity = np.nan_to_num(_floats(columns["popularity_percentile"]))  # [items]
        freshness = _percentiles(np.nan_to_num(_floats(columns["first_seen_unix_s"]), nan=0.0))  # [items]
        rates = _floats(columns.get("engagement_rate", [None] * len(ids)))  # [items]
        mean_rate = float(np.nanmean(rates)) if np.isfinite(rates).any() else np.nan
        categories = [str(category or "") for category in columns.get("category", [""] * len(ids))]
        codes = {category: code for code, category in enumerate(sorted({*categories} - {""}), start=1)} | {"": 0}
        return cls(
            index={item_id: row for row, item_id in enumerate(ids)},
            ids=ids,
            titles=tuple(str(title or "") for title in columns["title"]),
            novelty=_single(np.append(_share_of_most(_floats(columns["novelty_bits"])), 1.0)),
            popularity=_single(np.append(popularity, 0.0)),
            freshness=_single(np.append(freshness, 0.0)),
            rates=_single(np.append(np.where(np.isnan(rates), mean_rate, rates), mean_rate)),
            trials=_single(np.append(np.nan_to_num(_floats(columns.get("exposures", [0] * len(ids)))), 0.0)),
            categories=np.asarray([*(codes[category] for category in categories), 0], np.int32),
            category_names={code: category for category, code in codes.items()},
            withdrawn_ids=frozenset(ids[row] for row in np.flatnonzero(withdrawn)),
            by_popularity=_best_first(popularity, withdrawn),
            by_freshness=_best_first(freshness, withdrawn),
        )

    @classmethod
    def empty(cls) -> ItemTable:
        names = ("item_id", "withdrawn", "popularity_percentile", "first_seen_unix_s", "title", "novelty_bits")
        return cls.of(dict.fromkeys(names, ()))

    def top(self, source: Source, count: int) -> tuple[ItemId, ...]:
        """The first items of POPULAR or FRESH that are not withdrawn."""
        order = self.by_popularity if source is Source.POPULAR else self.by_freshness
        return tuple(self.ids[row] for row in order[:count])

    def prior(self, source: Source, item_ids: Iterable[ItemId]) -> Floats:
        """What stands for the model's score when there is none, in [0, 1]."""
        column = self.popularity if source is Source.POPULAR else self.freshness
        return column[self.rows(item_ids)]

    def is_withdrawn(self, item_id: ItemId) -> bool:
        return item_id in self.withdrawn_ids

    def title(self, item_id: ItemId) -> str:
        row = self.index.get(item_id)
        return "" if row is None else self.titles[row]

    def rows(self, item_ids: Iterable[ItemId]) -> npt.NDArray[np.intp]:
        """Where the items are in each column; -1, the last row, for an unknown one."""
        return np.fromiter(map(self.index.get, item_ids, repeat(-1)), np.intp)  # [candidates]


def _floats(values: Sequence[object]) -> Floats:
    return np.asarray([np.nan if value is None else value for value in values], np.float64)


def _single(values: Floats) -> Floats:
    """Rounded to float32, as the decision log keeps them."""
    return values.astype(np.float32).astype(np.float64)


def _share_of_most(bits: Floats) -> Floats:
    most = float(np.nanmax(bits)) if np.isfinite(bits).any() else 0.0
    shares = bits / most if most > 0 else np.ones_like(bits)
    return np.clip(np.nan_to_num(shares, nan=1.0), 0.0, 1.0)


def _percentiles(values: Floats) -> Floats:
    """Share of values that are smaller, ties half.

    >>> _percentiles(np.array([3.0, 1.0, 1.0, 9.0])).tolist()
    [0.625, 0.25, 0.25, 0.875]
    """
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, side="left")
    through = np.searchsorted(ordered, values, side="right")
    return (below + through) / (2.0 * max(len(values), 1))


def _best_first(values: Floats, withdrawn: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    order = np.argsort(-values, kind="stable")
    return order[~withdrawn[order]]
