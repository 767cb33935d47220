"""What a campaign asks for, and how its budget is spent: pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from serving.gateway.campaigns.audience import Segment

DEFAULT_ITEMS = 5
DEFAULT_HOLDOUT_RATE = 0.1


@dataclass(frozen=True, kw_only=True)
class Selection:
    """One valid question. Either `user_ids` or `segment`; None is no limit; no `channels` are all of the policy."""

    campaign_id: str
    user_ids: tuple[str, ...] = ()
    segment: Segment | None = None
    max_contacts: int | None = None
    max_cost: float | None = None
    channels: tuple[str, ...] = ()
    limit: int = DEFAULT_ITEMS
    holdout_rate: float = DEFAULT_HOLDOUT_RATE

    @property
    def parameters(self) -> Mapping[str, str]:
        """What must be the same when a campaign goes on, without any user's name."""
        users = "\n".join(sorted(set(self.user_ids)))
        segment = self.segment or Segment()
        states = ",".join(sorted(segment.states))
        named = {
            "user_ids": hashlib.sha256(users.encode()).hexdigest() if users else "",
            "segment.states": states,
            "segment.min_tail_percentile": segment.min_tail_percentile,
            "segment.min_days_away": segment.min_days_away,
            "segment.max_days_away": segment.max_days_away,
            "max_contacts": self.max_contacts,
            "max_cost": self.max_cost,
            "channels": ",".join(sorted(self.channels)),
            "limit": self.limit,
            "holdout_rate": self.holdout_rate,
        }
        return {name: f"{value}" for name, value in named.items() if value not in (None, "")}


@dataclass(kw_only=True)
class Budget:
    """A user held out takes the place of a contact, so that the held out are a random part of the chosen."""

    max_contacts: int | None
    max_cost: float | None
    chosen: int = 0
    cost: float = 0.0

    def spend(self, cost: float) -> None:
        self.chosen += 1
        self.cost += cost

    def users(self, most: int, dearest: float) -> int:
        """How many may be asked for at once so that all of them can be paid on the dearest channel; 1 at least."""
        users = most
        if self.max_contacts is not None:
            users = min(users, self.max_contacts - self.chosen)
        if self.max_cost is not None:
            users = min(users, int((self.max_cost - self.cost) / dearest))
        return max(users, 1)

    def affords(self, cost: float, *, users: int = 1) -> bool:
        if self.max_contacts is not None and self.chosen + users > self.max_contacts:
            return False
        return self.max_cost is None or self.cost + cost * users <= self.max_cost * (1 + 1e-12)
