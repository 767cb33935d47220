"""What is asked, of whom: the scenario, seeded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.population import DrawnUser, UserDraws
from loadtest.profiles import Profile
from longtail.activation.v1 import activation_pb2, feedback_pb2


@dataclass(frozen=True, slots=True)
class Question:
    """One request; `rpc` is the method's name."""

    rpc: str
    message: Any
    user_kind: str


class Questions:
    """Draws requests by the profile's mixes; the same seed asks the same."""

    def __init__(self, *, profile: Profile, users: UserDraws, item_ids: Sequence[str], seed: int) -> None:
        self._profile = profile
        self._users = users
        self._item_ids = item_ids
        self._random = np.random.default_rng([seed, 1])  # a stream of its own beside the users'
        self._run = f"{seed}-{self._random.integers(2**62):x}"
        self._asked = 0
        makers: dict[str, Callable[[DrawnUser], Question]] = {
            "rank_candidates": self._rank_candidates,
            "rank_sources": self._rank_sources,
            "user_state": self._user_state,
            "record_events": self._record_events,
        }
        weights = profile.requests.weights()
        self._makers = [makers[name] for name in weights]
        self._cumulative = np.cumsum(list(weights.values()))  # [makers]

    def draw(self) -> Question:
        self._asked += 1
        at = self._random.random() * self._cumulative[-1]
        return self._makers[int(np.searchsorted(self._cumulative, at, side="right"))](self._users.draw())

    def _rank_candidates(self, user: DrawnUser) -> Question:
        count = min(self._profile.candidates, len(self._item_ids))
        chosen = self._random.choice(len(self._item_ids), count, replace=False)
        request = activation_pb2.RankItemsRequest(
            user_id=user.user_id,
            candidate_item_ids=[self._item_ids[index] for index in chosen],
            limit=self._profile.limit,
            surface="loadtest",
        )
        return Question("RankItems", request, user.kind)

    def _rank_sources(self, user: DrawnUser) -> Question:
        request = activation_pb2.RankItemsRequest(user_id=user.user_id, limit=self._profile.limit, surface="loadtest")
        return Question("RankItems", request, user.kind)

    def _user_state(self, user: DrawnUser) -> Question:
        return Question("GetUserState", activation_pb2.GetUserStateRequest(user_id=user.user_id), user.kind)

    def _record_events(self, user: DrawnUser) -> Question:
        event = feedback_pb2.Event(
            event_id=f"loadtest-{self._run}-{self._asked}",
            user_id=user.user_id,
            item_id=self._item_ids[int(self._random.integers(len(self._item_ids)))],
            event_type="view",
            surface="loadtest",
        )
        return Question("RecordEvents", feedback_pb2.RecordEventsRequest(events=[event]), user.kind)
