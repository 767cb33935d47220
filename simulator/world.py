"""A world of users who come, drift and leave, and what a contact does to them: pure numpy, its truth known.

Each evening of a day t, for a user u who has not left for good:

    organic visits      Bernoulli(λ_u · season_t) a day, λ_u ~ Gamma: few come often, most seldom
    leaving for good    after each visit with probability q_u ~ Beta (the B and the G of BG/NBD)
    interest            a mixture θ_u over tastes; from time to time half of it is drawn anew
    a contact           brings a visit within REPLY_DAYS days with probability
                        reply = effect · s_u · match(items, θ_u) · FATIGUE^(contacts in the last 14 days)
    match               1 − Π_i (1 − ATTRACTION · θ_u[taste of i] / max θ_u · ½^(times shown) · ⅕ if known)
    sleeping dogs       some users stay away for a week after a contact, with probability one half
    opting out          after a contact, with probability OPT_OUT · (1 − match) · (1 + contacts in the last 14 days)

So who comes anyway gains nothing from a contact, who has left cannot be won, and wrong items do harm. The probability
of a visit within h days is, with and without a contact, a product over days: `lift` is exact, not counted.

Every random number belongs to (seed, day, purpose, user), whatever is done: two policies in the world of one seed meet
the same users with the same luck (common random numbers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

HORIZON_DAYS: Final = 7  # within which a return counts, and between two campaigns
EVENING_H: Final = 20  # after the day's visits, before the shipped policy's quiet hours
REPLY_DAYS: Final = 3
FATIGUE: Final = 0.6
FATIGUE_DAYS: Final = 14
ATTRACTION: Final = 0.35
KNOWN: Final = 0.2
OPT_OUT: Final = 0.05
SLEEPING_DOGS: Final = 0.1
MOST_VIEWS: Final = 5
ITEMS_SEED: Final = 1_000_003  # every world has the same catalogue: a model of one ranks in another
EVENT_TYPES: Final = ("view", "click", "purchase")
TYPE_SHARES: Final = (0.65, 0.85, 1.0)  # cumulative


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """`effect` scales all that a contact does; 0 is a world in which it does nothing."""

    users: int = 1200
    items: int = 400
    tastes: int = 8
    past_days: int = 150
    effect: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Act:
    """One event of the world; `item` is empty for an opt-out."""

    user: int
    item: int | None
    event_type: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Contacted:
    """What is true of those contacted, or of those held out had they been. All [contacts]."""

    lift: Floats  # p(return | contact) − p(return | none)
    base: Floats  # p(return | none)
    opted_out: Bools


class World:
    """Advances a day at a time. `start` is the midnight of day 0."""

    def __init__(self, settings: WorldSettings, *, seed: int, start: datetime) -> None:
        self.settings = settings
        self.start = start
        self.day = -1
        self._seed = seed
        count, items = settings.users, np.random.default_rng(ITEMS_SEED)
        self.taste_of = items.integers(settings.tastes, size=settings.items)  # [items]
        weight = items.permutation(np.arange(1, settings.items + 1) ** -0.8)
        self._shelves = [_shelf(np.flatnonzero(self.taste_of == taste), weight) for taste in range(settings.tastes)]
        rng = np.random.default_rng([seed, 7])
        self.rate = np.minimum(rng.gamma(0.7, 0.12, count), 0.8)  # visits a day
        self.leaving = rng.beta(1, 14, count)
        self.susceptibility = rng.beta(1.2, 4, count)
        self.is_sleeping_dog = rng.random(count) < SLEEPING_DOGS
        self.first_day = rng.integers(0, int(settings.past_days * 0.9), count)
        self.interest = rng.dirichlet(np.full(settings.tastes, 0.3), count)  # [users, tastes]
        self.has_left = np.zeros(count, bool)
        self.opted_out_unix_s: dict[int, float] = {}
        self._away_until = np.full(count, -1)  # sleeping dogs
        self._replies_on = np.full(count, -1)
        self._replies_to = np.full(count, -1)
        self._contact_days: list[tuple[int, Integers]] = []
        self._known = np.zeros((count, settings.items), bool)
        self._shown = np.zeros((count, settings.items), np.uint8)

    def evening(self, day: int) -> datetime:
        return self.start + timedelta(days=day, hours=EVENING_H)

    def live(self, days: int) -> list[Act]:
        """So many days more; gives what users did, by time within a day."""
        return [act for _ in range(days) for act in self._next_day()]

    def contact(self, users: Integers, slates: Sequence[Sequence[int]]) -> Contacted:
        """In the evening of the current day: `slates` are the items that go with each."""
        truth = self._truth(users, slates)
        reply, match = self._reply(users, slates)
        draws = self._draws("contact", 4)
        replies = draws[0][users] < reply
        self._replies_on[users[replies]] = (self.day + 1 + (draws[1] * REPLY_DAYS).astype(int))[users[replies]]
        self._replies_to[users[replies]] = [int(slate[0]) for slate, does in zip(slates, replies, strict=True) if does]
        stays = self.is_sleeping_dog[users] & (draws[2][users] < 0.5 * min(self.settings.effect, 1))
        self._away_until[users[stays]] = self.day + HORIZON_DAYS
        annoyed = OPT_OUT * (1 - match) * (1 + self._recent_contacts()[users]) * min(self.settings.effect, 1)
        opted_out = draws[3][users] < annoyed
        now_unix_s = self.evening(self.day).timestamp()
        self.opted_out_unix_s.update({int(user): now_unix_s for user in users[opted_out]})
        self._contact_days.append((self.day, users))
        for user, slate in zip(users, slates, strict=True):
            self._shown[user, list(slate)] += 1
        return Contacted(lift=truth.lift, base=truth.base, opted_out=opted_out)

    def truth(self, users: Integers, slates: Sequence[Sequence[int]]) -> Contacted:
        """As `contact` would have had it; changes nothing."""
        return self._truth(users, slates)

    def visit_probability(self, users: Integers, days: int) -> Floats:
        """Of a visit within the days after the current one, if nobody is contacted. [users]"""
        stays_away = np.ones(len(users))
        for day in range(self.day + 1, self.day + days + 1):
            comes = (day > self._away_until[users]) & (day >= self.first_day[users])
            stays_away *= 1 - np.where(comes, self.rate[users] * season(day), 0)
        return np.where(self.has_left[users], 0, 1 - stays_away)

    def _truth(self, users: Integers, slates: Sequence[Sequence[int]]) -> Contacted:
        base = self.visit_probability(users, HORIZON_DAYS)
        reply, _ = self._reply(users, slates)
        stays = np.where(self.is_sleeping_dog[users], 0.5 * min(self.settings.effect, 1), 0)
        lift = 1 - (1 - base * (1 - stays)) * (1 - reply) - base
        return Contacted(lift=lift, base=base, opted_out=np.zeros(len(users), bool))

    def _reply(self, users: Integers, slates: Sequence[Sequence[int]]) -> tuple[Floats, Floats]:
        """Probability of a visit because of the contact, and how well the items match. Both [users]."""
        match = np.array([self._match(user, slate) for user, slate in zip(users, slates, strict=True)], float)
        willing = self.susceptibility[users] * FATIGUE ** self._recent_contacts()[users] * ~self.has_left[users]
        return np.minimum(self.settings.effect * willing * match, 1), match

    def _match(self, user: int, slate: Sequence[int]) -> float:
        items = np.asarray(slate, np.int64)
        likes = self.interest[user, self.taste_of[items]] / self.interest[user].max()
        attracts = ATTRACTION * likes * 0.5 ** self._shown[user, items] * np.where(self._known[user, items], KNOWN, 1)
        return float(1 - np.prod(1 - attracts))

    def _recent_contacts(self) -> Integers:
        recent = np.zeros(self.settings.users, int)
        for day, users in self._contact_days:
            recent[users] += day > self.day - FATIGUE_DAYS
        return recent

    def _next_day(self) -> list[Act]:
        self.day += 1
        draws = self._draws("day", 4 + 3 * MOST_VIEWS)
        self._drift()
        here = (self.day >= self.first_day) & ~self.has_left
        organic = here & (self.day > self._away_until) & (draws[0] < self.rate * season(self.day))
        organic |= self.day == self.first_day
        visits = organic | (self._replies_on == self.day)
        acts = [act for user in np.flatnonzero(visits) for act in self._visit(int(user), draws[2:, user])]
        self.has_left |= visits & (draws[1] < self.leaving)
        return acts

    def _visit(self, user: int, draws: Floats) -> list[Act]:
        """`draws`: how much is seen, when, and of each event taste, item and type."""
        began = self.start + timedelta(days=self.day, hours=8, seconds=int(draws[1] * 11 * 3600))
        acts = []
        for event in range(1 + int(MOST_VIEWS * draws[0] ** 2)):
            taste, which, kind = draws[2 + 3 * event : 5 + 3 * event]
            item = self._choose(user, taste, which)
            if event == 0 and self._replies_on[user] == self.day:
                item = int(self._replies_to[user])
            event_type = EVENT_TYPES[int(np.searchsorted(TYPE_SHARES, kind, side="right"))]
            self._known[user, item] = True
            acts.append(Act(user=user, item=item, event_type=event_type, at=began + timedelta(seconds=40 * event)))
        return acts

    def _choose(self, user: int, taste_draw: float, item_draw: float) -> int:
        taste = min(int(np.searchsorted(np.cumsum(self.interest[user]), taste_draw)), self.settings.tastes - 1)
        items, cumulative = self._shelves[taste]
        return int(items[min(int(np.searchsorted(cumulative, item_draw)), len(items) - 1)])

    def _drift(self) -> None:
        rng = np.random.default_rng([self._seed, 11, self.day])
        changes = np.flatnonzero(rng.random(self.settings.users) < 1 / 90)
        drawn = rng.dirichlet(np.full(self.settings.tastes, 0.3), self.settings.users)
        self.interest[changes] = 0.5 * self.interest[changes] + 0.5 * drawn[changes]

    def _draws(self, purpose: str, count: int) -> Floats:
        """Uniform [count, users], of this day, whatever happened before."""
        rng = np.random.default_rng([self._seed, 13, self.day, sum(purpose.encode())])
        return rng.random((count, self.settings.users))


def season(day: int) -> float:
    """Weekends are busier."""
    return 1.25 if day % 7 in (5, 6) else 0.9


def user_id(seed: int, user: int) -> str:
    return f"world{seed}-user{user}"


def item_id(item: int) -> str:
    return f"item{item}"


def number_of(name: str) -> int:
    """Of an id that `user_id` or `item_id` made."""
    return int(name.rpartition("user")[2] if "user" in name else name.removeprefix("item"))


def first_midnight(now: datetime, days: int) -> datetime:
    """Of a world that ends before today: so many days ago."""
    return datetime(now.year, now.month, now.day, tzinfo=UTC) - timedelta(days=days)


def _shelf(items: Integers, weight: Floats) -> tuple[Integers, Floats]:
    return items, np.cumsum(weight[items] / weight[items].sum())
