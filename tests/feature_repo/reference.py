"""What each feature is of one user or item at one moment, counted in plain Python from a list of events."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from feature_repo.events import Event
from feature_repo.lifecycle import state_at
from feature_repo.settings import FeatureSettings
from feature_repo.tables import bgnbd

DAY_S = 86_400
CONTACTS = ("contact", "opt_out", "opt_in")
Row = dict[str, Any]
Categories = dict[str, list[str]]


def second(event: Event) -> int:
    return math.floor(event.event_time.timestamp())


def day(event: Event) -> int:
    return second(event) // DAY_S


def before(log: Sequence[Event], as_of: datetime) -> list[Event]:
    return [event for event in log if event.event_time < as_of]


def of_user(log: Sequence[Event], user_id: str) -> list[Event]:
    return [event for event in log if event.user_id == user_id]


def is_act(event: Event) -> bool:
    return event.event_type not in ("exposure", *CONTACTS)


def behavior(past: Sequence[Event], categories: Categories, as_of: datetime, settings: FeatureSettings) -> Row:
    """Of one user's past."""
    engaged = {(second(e), e.item_id, e.event_type) for e in past if settings.weight(e.event_type) > 0}
    newest = sorted(engaged, key=lambda row: (-row[0], row[1], row[2]))[:50]
    types = sorted({kind for _, _, kind in newest})
    weights: Counter[str] = Counter()
    for _, item, kind in engaged:
        for category in categories.get(item, []):
            weights[category] += round(settings.weight(kind) * 1_000_000)
    best = sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))[:5]
    return {
        "history_item_ids": [item for _, item, _ in newest],
        "history_type_places": [types.index(kind) for _, _, kind in newest],
        "history_gaps_s": _gaps([at for at, _, _ in newest]),
        "count_event_types": types,
        **{f"counts_{days}d": [_of_late(newest, kind, days, as_of) for kind in types] for days in (1, 7, 30)},
        "affinity_categories": [category for category, _ in best],
        "affinity_shares": [weight / sum(weights.values()) for _, weight in best],
    }


def _of_late(rows: Sequence[tuple[int, str, str]], kind: str, days: int, as_of: datetime) -> int:
    return sum(kind == of and as_of.timestamp() - at <= days * DAY_S for at, _, of in rows)


def activity(past: Sequence[Event], as_of: datetime, settings: FeatureSettings) -> Row:
    """Of one user's past, but what `nightly` gives."""
    acts = sorted(filter(is_act, past), key=second)
    first_of_day = {day(act): second(act) for act in reversed(acts)}
    seconds = [second(act) for act in acts]
    dormant_s = settings.lifecycle.dormant_after_days * DAY_S
    span = max(first_of_day) - min(first_of_day) if acts else 0
    row: Row = {
        "first_seen_unix_s": min(seconds, default=None),
        "last_seen_unix_s": max(seconds, default=None),
        "returned_unix_s": max((b for a, b in pairwise(seconds) if b - a >= dormant_s), default=None),
        "events": len(acts),
        "active_days": len(first_of_day),
        "mean_gap_days": span / (len(first_of_day) - 1) if len(first_of_day) > 1 else None,
        **{
            f"visits_{days}d": sum(as_of.timestamp() - at <= days * DAY_S for at in first_of_day.values())
            for days in (7, 28, 90)
        },
    }
    state, in_state = state_at(row, now_unix_s=as_of.timestamp(), settings=settings.lifecycle)
    return row | {"state": str(state), "days_in_state": in_state}


def nightly(past: Sequence[Event], user_id: str, midnight: datetime) -> Row:
    """What depends on everyone; `past` is of all users."""
    acts = {user: list(filter(is_act, of_user(past, user))) for user in {event.user_id for event in past}}
    if user_id not in acts:
        return {"p_alive": None, "expected_events_30d": None, "tail_percentile": 1.0}
    others = [len(theirs) for user, theirs in acts.items() if user != user_id]
    mine = len(acts[user_id])
    more = sum((n > mine) + (n == mine) / 2 for n in others)
    today = int(midnight.timestamp()) // DAY_S
    seen = {user: _visits({day(act) for act in theirs}, today) for user, theirs in acts.items() if theirs}
    return {**_predicted(seen, user_id), "tail_percentile": more / len(others) if others else 1.0}


def _visits(days: set[int], today: int) -> tuple[float, float, float]:
    return float(len(days) - 1), float(max(days) - min(days)), float(today - min(days))


def _predicted(seen: dict[str, tuple[float, float, float]], user_id: str) -> Row:
    groups = sorted(Counter(seen.values()).items())
    x, t_x, age = (np.array([group[place] for group, _ in groups]) for place in range(3))
    model = bgnbd.fit(x, t_x, age, np.array([float(users) for _, users in groups])) if groups else None
    if model is None or user_id not in seen:
        return {"p_alive": None, "expected_events_30d": None}
    mine = tuple(np.array([value]) for value in seen[user_id])
    values = float(model.p_alive(*mine)[0]), float(model.expected_visits(30.0, *mine)[0])
    return {
        name: None if math.isnan(value) else value
        for name, value in zip(("p_alive", "expected_events_30d"), values, strict=True)
    }


def contacts(past: Sequence[Event], as_of: datetime, settings: FeatureSettings) -> Row:
    """Of one user's past."""
    newest = sorted({(-second(e), e.surface) for e in past if e.event_type == "contact"})[:50]
    channels = sorted({channel for _, channel in newest})
    rows = [(-at, "", channel) for at, channel in newest]
    choices: dict[str, list[int]] = defaultdict(lambda: [-1, -1])
    for e in past:
        if e.event_type in CONTACTS[1:]:
            place = CONTACTS[1:].index(e.event_type)
            choices[e.surface][place] = max(choices[e.surface][place], second(e))
    last = dict(sorted(choices.items()))
    vain = _in_vain(past, settings)
    return {
        "channels": channels,
        **{f"contacts_{days}d": [_of_late(rows, channel, days, as_of) for channel in channels] for days in (1, 7, 30)},
        "contact_channel_places": [channels.index(channel) for _, channel in newest],
        "contact_gaps_s": _gaps([-at for at, _ in newest]),
        "opted_out_channels": [channel for channel, (out, back) in last.items() if out >= max(back, 0)],
        "exposed_item_ids": [item for _, item, _ in vain],
        "exposed_counts": [times for _, _, times in vain],
        "exposed_gaps_s": _gaps([-at for at, _, _ in vain]),
    }


def _gaps(times: Sequence[int]) -> list[int]:
    return [at if place == 0 else times[place - 1] - at for place, at in enumerate(times)]


def _in_vain(past: Sequence[Event], settings: FeatureSettings) -> list[tuple[int, str, int]]:
    shown: dict[str, list[int]] = defaultdict(list)
    for event in past:
        if event.event_type == "exposure" and event.item_id:
            shown[event.item_id].append(second(event))
    rows = []
    for item, times in shown.items():
        engaged = max((second(e) for e in past if e.item_id == item and settings.weight(e.event_type) > 0), default=-1)
        if since := [at for at in times if at > engaged]:
            rows.append((-max(since), item, len(since)))
    return sorted(rows)[:20]


def stats(
    past: Sequence[Event], item_id: str, items: dict[str, Row], midnight: datetime, settings: FeatureSettings
) -> Row:
    """Of everyone's past; `items` is the catalogue."""
    about = [e for e in past if e.item_id]
    engaged = Counter(e.item_id for e in about if settings.weight(e.event_type) > 0)
    every = set(items) | {e.item_id for e in about}
    followed, saw = Counter[str](), Counter[str]()
    engagers: dict[str, set[str]] = defaultdict(set)
    for item, user in {(e.item_id, e.user_id) for e in about}:
        theirs = [e for e in about if (e.item_id, e.user_id) == (item, user)]
        seen = [e.event_time for e in theirs if e.event_type == "exposure"]
        acted = [e.event_time for e in theirs if settings.weight(e.event_type) > 0]
        saw[item] += bool(seen)
        followed[item] += bool(seen and acted and max(acted) >= min(seen))
        if acted:
            engagers[item].add(user)
    users, mine = len(set().union(*engagers.values())), [e for e in about if e.item_id == item_id]
    late = midnight.timestamp() - 30 * DAY_S
    mean = sum(followed.values()) / sum(saw.values()) if sum(saw.values()) else None
    others = [engaged[item] for item in every - {item_id}]
    below = sum((n < engaged[item_id]) + (n == engaged[item_id]) / 2 for n in others)
    listed = items.get(item_id, {})
    if item_id not in every:
        below, others, mean = 0.0, [1], None
    return {
        "exposures": sum(e.event_type == "exposure" for e in mine),
        "engagements": engaged[item_id],
        "engaged_users": len(engagers[item_id]),
        "engagements_30d": sum(settings.weight(e.event_type) > 0 and second(e) >= late for e in mine),
        "engagement_rate": None if mean is None else (followed[item_id] + 20 * mean) / (saw[item_id] + 20),
        "popularity_percentile": below / len(others) if others else 1.0,
        "novelty_bits": None if item_id not in every else -math.log2((len(engagers[item_id]) + 1) / (users + 1)),
        "first_seen_unix_s": min(map(second, mine), default=None),
        "title": listed.get("title") or "",
        "category": listed.get("category") or "",
        "price": listed.get("price"),
        "withdrawn": listed.get("withdrawn") or False,
    }


def neighbors(past: Sequence[Event], item_id: str, settings: FeatureSettings) -> Row:
    """By what users did with both."""
    last: dict[str, dict[str, datetime]] = defaultdict(dict)
    for e in past:
        if e.item_id and settings.weight(e.event_type) > 0:
            known = last[e.user_id].get(e.item_id)
            last[e.user_id][e.item_id] = e.event_time if known is None else max(known, e.event_time)
    single, both = Counter[str](), Counter[str]()
    for theirs in last.values():
        recent = sorted(theirs.items(), key=lambda pair: pair[0])
        recent = sorted(recent, key=lambda pair: pair[1], reverse=True)[: settings.neighbor_history]
        share = round(1_000_000 / math.sqrt(len(recent)))
        for item, _ in recent:
            single[item] += share
            if item_id in dict(recent) and item != item_id:
                both[item] += share
    scores = {
        other: np.float32(shared / (math.sqrt(float(single[item_id]) * float(single[other])) + 10 * 1_000_000))
        for other, shared in both.items()
    }
    best = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:50]
    return {"neighbor_item_ids": [item for item, _ in best], "neighbor_scores": [float(score) for _, score in best]}
