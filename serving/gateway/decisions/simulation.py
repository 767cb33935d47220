"""What another policy would have made of decisions that were logged, state by state: pure.

Candidates and all that the policy was told of them are the log's, so only the arrangement differs: what another policy
would have retrieved, or how users would have answered, is not in it. `longtail ope` estimates the latter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.gateway.decisions.replay import arrange_under
from serving.gateway.domain import RankedItem, Scored
from serving.gateway.policy.document import Policy


@dataclass(kw_only=True)
class _Lists:
    relevance: float = 0.0  # mean of a list, summed over lists
    novelty: float = 0.0
    explored: float = 0.0
    items: set[str] = field(default_factory=set)

    def add(self, items: tuple[RankedItem, ...], known: Mapping[str, tuple[float, float]]) -> None:
        numbers = np.array([known[item.item_id] for item in items])
        self.relevance += float(numbers[:, 0].mean())
        self.novelty += float(numbers[:, 1].mean())
        self.explored += sum(item.is_exploration for item in items) / len(items)
        self.items.update(item.item_id for item in items)

    def as_json(self, lists: int) -> dict[str, float]:
        return {
            "relevance": self.relevance / lists,
            "novelty": self.novelty / lists,
            "explored": self.explored / lists,
            "distinct_items": len(self.items),
        }


@dataclass(kw_only=True)
class _Sums:
    lists: int = 0
    changed: int = 0
    first_changed: int = 0
    kept: float = 0.0  # share of the first list's items that the second has too, summed over lists
    before: _Lists = field(default_factory=_Lists)
    after: _Lists = field(default_factory=_Lists)


def simulate(decisions: Iterable[Mapping[str, Any]], before: Policy, after: Policy) -> dict[str, dict[str, Any]]:
    """By state, and for `all`: how the lists that two policies make of the same candidates differ.

    Decisions without candidates are left out. Experiments are left aside: each policy decides as its own text says.
    """
    sums: dict[str, _Sums] = defaultdict(_Sums)
    for decision in decisions:
        if not decision["candidate_item_ids"]:
            continue
        one, scored = arrange_under(decision, before)
        other, _ = arrange_under(decision, after)
        if one and other:
            for name in ("all", decision["state"]):
                _add(sums[name], one, other, _known(scored))
    return {name: _report(found) for name, found in sums.items()}


def _known(scored: Scored) -> dict[str, tuple[float, float]]:
    """Relevance and novelty by item."""
    ids = [candidate.item_id for candidate in scored.candidates]
    return dict(zip(ids, zip(scored.relevance.tolist(), scored.novelty.tolist(), strict=True), strict=True))


def _add(
    sums: _Sums,
    one: tuple[RankedItem, ...],
    other: tuple[RankedItem, ...],
    known: Mapping[str, tuple[float, float]],
) -> None:
    ids, others = [item.item_id for item in one], [item.item_id for item in other]
    sums.lists += 1
    sums.changed += ids != others
    sums.first_changed += ids[0] != others[0]
    sums.kept += len({*ids} & {*others}) / len(ids)
    sums.before.add(one, known)
    sums.after.add(other, known)


def _report(sums: _Sums) -> dict[str, Any]:
    return {
        "lists": sums.lists,
        "changed": sums.changed / sums.lists,
        "first_changed": sums.first_changed / sums.lists,
        "kept": sums.kept / sums.lists,
        "before": sums.before.as_json(sums.lists),
        "after": sums.after.as_json(sums.lists),
    }
