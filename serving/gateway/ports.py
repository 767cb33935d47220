"""What the pipeline needs of the world. Adapters and the tests' fakes both fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from feature_repo.settings import LifecycleSettings
from serving.gateway.domain import ItemId, ModelUser, Query, Ranking, Rows, Scores, UserId
from serving.gateway.features.item_table import ItemTable
from serving.gateway.features.row_memory import RowMemory


class FeatureReader(Protocol):
    async def read(self, user_id: UserId, *, timeout_s: float) -> Rows:
        """The user's rows; a view without a row is not in the answer. Raises FeaturesError."""
        ...


class ItemCatalog(Protocol):
    @property
    def items(self) -> ItemTable:
        """The item statistics as last loaded; never waits."""
        ...


class Scorer(Protocol):
    async def score(
        self, user: ModelUser, item_ids: Sequence[ItemId], *, timeout_s: float, is_low: bool = False
    ) -> Scores:
        """One probability per item; low ones give way to others. Raises ModelError."""
        ...

    async def retrieve(self, user: ModelUser, *, timeout_s: float) -> tuple[ItemId, ...]:
        """The items the model would show, best first. Raises ModelError."""
        ...


class DecisionLog(Protocol):
    async def record(self, query: Query, ranking: Ranking, *, timeout_s: float) -> None:
        """Returns when a randomised ranking is durable, at once for others. Raises DecisionLogError."""
        ...


@dataclass(frozen=True, kw_only=True)
class Ports:
    features: FeatureReader
    catalog: ItemCatalog
    scorer: Scorer
    decisions: DecisionLog
    memory: RowMemory
    lifecycle: LifecycleSettings
    candidates_per_source: int
    new_decision_id: Callable[[Query], str]
