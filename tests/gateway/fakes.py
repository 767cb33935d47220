"""The gateway's ports in memory, with faults that a test turns on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from feature_repo.events import Event
from feature_repo.settings import LifecycleSettings
from serving.gateway.decisions.decision_id import new_decision_id
from serving.gateway.domain import (
    Candidates,
    ItemId,
    ModelUser,
    ModelVersion,
    Query,
    Ranking,
    Row,
    Rows,
    Scored,
    Scores,
    Source,
    UserId,
)
from serving.gateway.errors import Cause, DecisionLogError, DependencyError, FeaturesError, ModelError
from serving.gateway.features.item_table import ItemTable
from serving.gateway.features.row_memory import RowMemory
from serving.gateway.ports import Ports

DAY_S = 86_400.0
NOW_S = 1_790_000_000.0  # in September 2026


class MemoryFeatures:
    """Rows by user and view."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Row]] = {}
        self.error: FeaturesError | None = None
        self.delay_s = 0.0
        self.cancelled = 0
        self.asked: list[str] = []

    async def read(self, user_id: UserId, *, timeout_s: float) -> Rows:
        self.asked.append(user_id)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(self.delay_s)
        except TimeoutError:
            raise FeaturesError(Cause.TIMEOUT, "late") from None
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return self.rows.get(user_id, {})


class MemoryCatalog:
    def __init__(self, items: ItemTable) -> None:
        self.items = items


class MemoryModel:
    """Scores by item; `default` for the others. Retrieves the best of `scores`."""

    def __init__(self, scores: Mapping[str, float] | None = None, *, default: float = 0.5) -> None:
        self.scores = dict(scores or {})
        self.default = default
        self.error: ModelError | None = None
        self.retrieve_error: ModelError | None = None
        self.users: list[ModelUser] = []
        self.low: list[bool] = []

    async def score(
        self, user: ModelUser, item_ids: Sequence[ItemId], *, timeout_s: float, is_low: bool = False
    ) -> Scores:
        self.users.append(user)
        self.low.append(is_low)
        if self.error is not None:
            raise self.error
        values = np.array([self.scores.get(item_id, self.default) for item_id in item_ids], np.float32)
        return Scores(values=values, model=ModelVersion(name="fake", version=7))

    async def retrieve(self, user: ModelUser, *, timeout_s: float) -> tuple[ItemId, ...]:
        if self.retrieve_error or self.error:
            raise self.retrieve_error or self.error or AssertionError
        return tuple(ItemId(item) for item in sorted(self.scores, key=lambda item: -self.scores[item]))


class MemoryDecisions:
    def __init__(self) -> None:
        self.recorded: list[tuple[Query, Ranking]] = []
        self.error: DecisionLogError | None = None

    async def record(self, query: Query, ranking: Ranking, *, timeout_s: float) -> None:
        if self.error is not None:
            raise self.error
        self.recorded.append((query, ranking))


class MemoryEvents:
    """An event log."""

    def __init__(self) -> None:
        self.events: dict[str, Event] = {}
        self.error: Exception | None = None

    def append(self, events: Sequence[Event]) -> list[bool]:
        if self.error is not None:
            raise self.error
        written = []
        for event in events:
            written.append(event.event_id not in self.events)
            self.events.setdefault(event.event_id, event)
        return written


def item_table(count: int = 40, *, withdrawn: Sequence[str] = ()) -> ItemTable:
    """Items i00 (the most popular, the oldest) to i39 (the rarest, the newest)."""
    ids = [f"i{place:02}" for place in range(count)]
    return ItemTable.of(
        {
            "item_id": ids,
            "title": [f"Item {place}" for place in range(count)],
            "novelty_bits": [1.0 + place for place in range(count)],
            "popularity_percentile": [1.0 - (place + 0.5) / count for place in range(count)],
            "first_seen_unix_s": [NOW_S - (count - place) * DAY_S for place in range(count)],
            "withdrawn": [item_id in withdrawn for item_id in ids],
        }
    )


def behavior_row(*item_ids: str, at_unix_s: float = NOW_S - DAY_S, age_s: float = 3600.0) -> Row:
    """Clicks, newest first, an hour apart."""
    return Row(
        values={
            "history_item_ids": list(item_ids),
            "count_event_types": ["click"],
            "history_type_places": [0] * len(item_ids),
            "history_gaps_s": [int(at_unix_s), *[3600] * len(item_ids)][: len(item_ids)],
        },
        event_unix_s=NOW_S - age_s,
    )


def activity_row(*, first_days: float, last_days: float, visits_28d: int = 1, tail: float = 0.8) -> Row:
    """Of a user first and last seen so many days ago."""
    return Row(
        values={
            "first_seen_unix_s": int(NOW_S - first_days * DAY_S),
            "last_seen_unix_s": int(NOW_S - last_days * DAY_S),
            "events": 12,
            "active_days": 5,
            "visits_28d": visits_28d,
            "p_alive": 0.25,
            "tail_percentile": tail,
        },
        event_unix_s=NOW_S - 3600.0,
    )


def scored(
    relevance: Sequence[float],
    *,
    novelty: Sequence[float] | None = None,
    exposures: Sequence[float] | None = None,
    categories: Sequence[int] | None = None,
    rates: Sequence[float] | None = None,
    trials: Sequence[float] | None = None,
    item_ids: Sequence[str] | None = None,
) -> Scored:
    """Candidates i000, i001, … of which the model said `relevance`."""
    count = len(relevance)

    def column(values: Sequence[float] | None, default: float) -> np.ndarray:
        return np.array([default] * count if values is None else values, np.float64)

    names = [f"i{place:03}" for place in range(count)] if item_ids is None else item_ids
    return Scored(
        candidates=Candidates.of(Source.CALLER, tuple(map(ItemId, names))),
        scores=np.array(relevance, np.float32),
        relevance=column(relevance, 0.0),
        novelty=column(novelty, 0.5),
        exposures=column(exposures, 0.0),
        categories=column(categories, 0).astype(np.int32),
        category_names={0: "", 1: "a", 2: "b", 3: "c"},
        rates=column(rates, np.nan),
        trials=column(trials, 0.0),
        model=ModelVersion(name="m", version=1),
    )


@dataclass(kw_only=True)
class World:
    """Every port as a fake, and users of three states: active, casual, dormant."""

    features: MemoryFeatures = field(default_factory=MemoryFeatures)
    catalog: MemoryCatalog = field(default_factory=lambda: MemoryCatalog(item_table()))
    model: MemoryModel = field(default_factory=MemoryModel)
    decisions: MemoryDecisions = field(default_factory=MemoryDecisions)
    events: MemoryEvents = field(default_factory=MemoryEvents)

    def __post_init__(self) -> None:
        rows = self.features.rows
        rows["active"] = {
            "user_behavior": behavior_row("i00", "i01"),
            "user_activity": activity_row(first_days=300, last_days=1, visits_28d=9, tail=0.1),
        }
        rows["casual"] = {
            "user_behavior": behavior_row("i02", at_unix_s=NOW_S - 5 * DAY_S),
            "user_activity": activity_row(first_days=200, last_days=5, tail=0.6),
        }
        rows["dormant"] = {
            "user_behavior": behavior_row("i03", at_unix_s=NOW_S - 90 * DAY_S, age_s=80 * DAY_S),
            "user_activity": activity_row(first_days=400, last_days=90, visits_28d=0, tail=0.9),
        }

    def ports(self) -> Ports:
        return Ports(
            features=self.features,
            catalog=self.catalog,
            scorer=self.model,
            decisions=self.decisions,
            memory=RowMemory(10),
            lifecycle=LifecycleSettings(),
            candidates_per_source=10,
            new_decision_id=new_decision_id,
        )


FAULTS: tuple[DependencyError, ...] = (
    FeaturesError(Cause.UNAVAILABLE, "down"),
    ModelError(Cause.TIMEOUT, "late"),
    DecisionLogError(Cause.DISK, "no space"),
)
