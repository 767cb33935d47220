"""Which candidates may be shown: pure. Kept and dropped together are what came in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from serving.gateway.domain import Candidate, Drop, ItemId
from serving.gateway.item_table import ItemTable


@dataclass(frozen=True, kw_only=True, slots=True)
class Division:
    kept: tuple[Candidate, ...]
    dropped: Mapping[Drop, int]


def divide(candidates: Iterable[Candidate], *, seen: Set[ItemId], excluded: Set[ItemId], items: ItemTable) -> Division:
    """Each candidate is kept, or dropped for the first reason that holds. Unknown items are kept."""
    kept: dict[ItemId, Candidate] = {}
    dropped: Counter[Drop] = Counter()
    met: set[ItemId] = set()
    for candidate in candidates:
        item_id = candidate.item_id
        if item_id in met:
            dropped[Drop.DUPLICATE] += 1
        elif item_id in excluded:
            dropped[Drop.EXCLUDED] += 1
        elif item_id in seen:
            dropped[Drop.SEEN] += 1
        elif items.is_withdrawn(item_id):
            dropped[Drop.WITHDRAWN] += 1
        else:
            kept[item_id] = candidate
        met.add(item_id)
    return Division(kept=tuple(kept.values()), dropped=dropped)
