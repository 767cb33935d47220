"""What feedback must remember of a user so that the streamed rows are a rebuild's, in whatever order events come.

Everything here is a function of the set of the user's events: days with their first and last second, the newest
engagements and contacts, the last choice per channel, and per item the last engagement and what was shown after it.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any, Final

from feature_repo.contract import CONTACT_LENGTH, EXPOSED_LENGTH, HISTORY_LENGTH, FeatureValue
from feature_repo.events import CONTACT, EPOCH, EXPOSURE, NOT_ACTIVITY, OPT_IN, OPT_OUT, Event
from feature_repo.lifecycle import DAY_S, state_at
from feature_repo.online.packed_lists import gaps, places
from feature_repo.settings import FeatureSettings

KEPT_ITEMS: Final = 1_000  # items of which engagements and exposures are remembered; the oldest are forgotten
KEPT_EXPOSURES: Final = 1_000  # of one item

_DAY: Final = 86_400
_SECOND: Final = timedelta(seconds=1)

Values = dict[str, FeatureValue]


@dataclass(slots=True)
class UserState:
    """Changed by `add` only. Seconds are whole and since 1970."""

    events: int = 0
    days: dict[int, tuple[int, int]] = field(default_factory=dict)  # UTC day → its first and last second with an act
    history: list[tuple[int, str, str]] = field(default_factory=list)  # (−second, item, type), sorted
    contacts: list[tuple[int, str]] = field(default_factory=list)  # (−second, channel), sorted
    choices: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)  # channel → last opt-out, opt-in
    engaged: dict[str, int] = field(default_factory=dict)  # item → last engagement
    shown: dict[str, list[int]] = field(default_factory=dict)  # item → exposures after it

    def add(self, event: Event, settings: FeatureSettings) -> None:
        """One event, once."""
        unix_s = (event.event_time - EPOCH) // _SECOND
        kind = event.event_type
        if kind not in NOT_ACTIVITY:
            self._act(unix_s)
        if settings.weight(kind) > 0:
            _insert(self.history, (-unix_s, event.item_id, kind), HISTORY_LENGTH)
            self._engage(event.item_id, unix_s)
        elif kind == EXPOSURE and event.item_id and unix_s > self.engaged.get(event.item_id, -1):
            self._show(event.item_id, unix_s)
        elif kind == CONTACT:
            _insert(self.contacts, (-unix_s, event.surface), CONTACT_LENGTH)
        elif kind in (OPT_OUT, OPT_IN):
            last_out, last_in = self.choices.get(event.surface, (None, None))
            if kind == OPT_OUT:
                self.choices[event.surface] = (max(unix_s, unix_s if last_out is None else last_out), last_in)
            else:
                self.choices[event.surface] = (last_out, max(unix_s, unix_s if last_in is None else last_in))

    def behavior(self, as_of_s: int) -> Values:
        """The streamed columns of `user_behavior`."""
        types = sorted({kind for _, _, kind in self.history})
        values: Values = {
            "history_item_ids": [item_id for _, item_id, _ in self.history],
            "history_type_places": places([kind for _, _, kind in self.history], types),
            "history_gaps_s": gaps([-unix_s for unix_s, _, _ in self.history]),
            "count_event_types": list(types),
        }
        for days in (1, 7, 30):
            recent = [kind for unix_s, _, kind in self.history if as_of_s + unix_s <= days * DAY_S]
            values[f"counts_{days}d"] = [recent.count(kind) for kind in types]
        return values

    def activity(self, as_of_s: int, settings: FeatureSettings) -> Values:
        """The streamed columns of `user_activity`."""
        days = sorted(self.days.items())
        first_s = days[0][1][0] if days else None
        last_s = days[-1][1][1] if days else None
        returns = [
            after[0]
            for (_, before), (_, after) in pairwise(days)
            if after[0] - before[1] >= settings.lifecycle.dormant_after_days * DAY_S
        ]
        values: Values = {
            "first_seen_unix_s": first_s,
            "last_seen_unix_s": last_s,
            "returned_unix_s": returns[-1] if returns else None,
            "events": self.events,
            "active_days": len(days),
            "mean_gap_days": (days[-1][0] - days[0][0]) / (len(days) - 1) if len(days) > 1 else None,
        }
        for window in (7, 28, 90):
            values[f"visits_{window}d"] = sum(as_of_s - begun_s <= window * _DAY for _, (begun_s, _) in days)
        state, days_in_state = state_at(values, now_unix_s=as_of_s, settings=settings.lifecycle)
        return values | {"state": str(state), "days_in_state": days_in_state}

    def contact(self, as_of_s: int) -> Values:
        """The columns of `user_contacts`."""
        channels = sorted({channel for _, channel in self.contacts})
        in_vain = sorted((-max(shown), item_id, len(shown)) for item_id, shown in self.shown.items())[:EXPOSED_LENGTH]
        values: Values = {
            "channels": list(channels),
            "contact_channel_places": places([channel for _, channel in self.contacts], channels),
            "contact_gaps_s": gaps([-unix_s for unix_s, _ in self.contacts]),
            "opted_out_channels": [
                channel
                for channel, (out_s, in_s) in sorted(self.choices.items())
                if out_s is not None and (in_s is None or out_s >= in_s)
            ],
            "exposed_item_ids": [item_id for _, item_id, _ in in_vain],
            "exposed_counts": [count for _, _, count in in_vain],
            "exposed_gaps_s": gaps([-unix_s for unix_s, _, _ in in_vain]),
        }
        for days in (1, 7, 30):
            recent = [channel for unix_s, channel in self.contacts if as_of_s + unix_s <= days * DAY_S]
            values[f"contacts_{days}d"] = [recent.count(channel) for channel in channels]
        return values

    def to_json(self) -> str:
        """For the worker's own database."""
        parts = (self.events, list(self.days.values()), self.history, self.contacts, self.choices, self.engaged)
        return json.dumps([*parts, self.shown], ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> UserState:
        events, days, history, contacts, choices, engaged, shown = json.loads(text)
        return cls(
            events=events,
            days={first_s // _DAY: (first_s, last_s) for first_s, last_s in days},
            history=[(unix_s, item_id, kind) for unix_s, item_id, kind in history],
            contacts=[(unix_s, channel) for unix_s, channel in contacts],
            choices={channel: (out_s, in_s) for channel, (out_s, in_s) in choices.items()},
            engaged=engaged,
            shown=shown,
        )

    def _act(self, unix_s: int) -> None:
        self.events += 1
        day = unix_s // _DAY
        first_s, last_s = self.days.get(day, (unix_s, unix_s))
        self.days[day] = (min(first_s, unix_s), max(last_s, unix_s))

    def _engage(self, item_id: str, unix_s: int) -> None:
        if unix_s <= self.engaged.get(item_id, -1):
            return
        self.engaged[item_id] = unix_s
        if later := [shown_s for shown_s in self.shown.pop(item_id, []) if shown_s > unix_s]:
            self.shown[item_id] = later
        if len(self.engaged) > KEPT_ITEMS:
            del self.engaged[min(self.engaged, key=lambda each: self.engaged[each])]

    def _show(self, item_id: str, unix_s: int) -> None:
        times = self.shown.setdefault(item_id, [])
        times.append(unix_s)
        if len(times) > KEPT_EXPOSURES:
            times.remove(min(times))
        if len(self.shown) > KEPT_ITEMS:
            del self.shown[min(self.shown, key=lambda each: max(self.shown[each]))]


def _insert(entries: list[Any], entry: Any, length: int) -> None:
    """Keeps a sorted set of the first `length` entries."""
    place = bisect_left(entries, entry)
    if place == len(entries) or entries[place] != entry:
        entries.insert(place, entry)
        del entries[length:]
