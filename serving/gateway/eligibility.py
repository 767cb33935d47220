"""Which candidates may be shown: pure. Kept and dropped together are what came in."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from itertools import compress

from serving.gateway.domain import Candidates, Drop, ItemId
from serving.gateway.features.item_table import ItemTable


@dataclass(frozen=True, kw_only=True, slots=True)
class Division:
    kept: Candidates
    dropped: Mapping[Drop, int]


def divide(candidates: Candidates, *, seen: Set[ItemId], excluded: Set[ItemId], items: ItemTable) -> Division:
    """Each candidate is kept, or dropped for the first reason that holds. Unknown items are kept."""
    named = set(candidates.item_ids)
    dropped = {Drop.DUPLICATE: len(candidates) - len(named)}
    kept = named
    for reason, unwanted in ((Drop.EXCLUDED, excluded), (Drop.SEEN, seen), (Drop.WITHDRAWN, items.withdrawn_ids)):
        before = len(kept)
        kept = kept - unwanted
        dropped[reason] = before - len(kept)
    return Division(
        kept=candidates if len(kept) == len(candidates) else _only(kept, candidates),
        dropped={reason: count for reason, count in dropped.items() if count},
    )


def _only(kept: set[ItemId], candidates: Candidates) -> Candidates:
    """In their order, each once: the first of those that are equal."""
    is_kept = []
    for item_id in candidates.item_ids:
        is_kept.append(item_id in kept)
        kept.discard(item_id)
    return Candidates(tuple(compress(candidates.item_ids, is_kept)), tuple(compress(candidates.sources, is_kept)))
