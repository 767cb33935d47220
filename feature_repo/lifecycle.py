"""A user's lifecycle state at a moment: the one definition that features, training and serving share.

The first that holds, `idle` being the time since the last event and `age` the time since the first:

| state | holds when | days in state count from |
|---|---|---|
| new | never seen | – (0) |
| dormant | idle ≥ dormant_after_days | the last event + dormant_after_days |
| at_risk | idle ≥ at_risk_after_days | the last event + at_risk_after_days |
| new | age < new_days | the first event |
| resurrected | time since the return < resurrected_days | the return |
| active | active days in 28 ≥ active_min_visits_28d | the end of having been new or resurrected, whichever is later |
| casual | otherwise | likewise: going from casual to active and back does not restart the count |

A return is an event at least dormant_after_days after the one before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from feature_repo.contract import FeatureValue
from feature_repo.settings import LifecycleSettings

DAY_S = 86_400.0


class Lifecycle(StrEnum):
    """In the wire's order."""

    NEW = "new"
    ACTIVE = "active"
    CASUAL = "casual"
    AT_RISK = "at_risk"
    DORMANT = "dormant"
    RESURRECTED = "resurrected"


def state_at(
    activity: Mapping[str, FeatureValue], *, now_unix_s: float, settings: LifecycleSettings
) -> tuple[Lifecycle, float]:
    """The state and the days spent in it, from a row of `user_activity`.

    >>> row = {"first_seen_unix_s": 0, "last_seen_unix_s": 0, "visits_28d": 1}
    >>> state_at(row, now_unix_s=40 * DAY_S, settings=LifecycleSettings())
    (<Lifecycle.DORMANT: 'dormant'>, 10.0)
    """
    first, last = _number(activity, "first_seen_unix_s"), _number(activity, "last_seen_unix_s")
    if first is None or last is None:
        return Lifecycle.NEW, 0.0
    idle_s, age_s = now_unix_s - last, now_unix_s - first
    if idle_s >= settings.dormant_after_days * DAY_S:
        return Lifecycle.DORMANT, _days(idle_s - settings.dormant_after_days * DAY_S)
    if idle_s >= settings.at_risk_after_days * DAY_S:
        return Lifecycle.AT_RISK, _days(idle_s - settings.at_risk_after_days * DAY_S)
    if age_s < settings.new_days * DAY_S:
        return Lifecycle.NEW, _days(age_s)
    since_new_s = age_s - settings.new_days * DAY_S
    returned = _number(activity, "returned_unix_s")
    if returned is not None:
        since_return_s = now_unix_s - returned
        if since_return_s < settings.resurrected_days * DAY_S:
            return Lifecycle.RESURRECTED, _days(since_return_s)
        since_new_s = min(since_new_s, since_return_s - settings.resurrected_days * DAY_S)
    visits = _number(activity, "visits_28d") or 0
    state = Lifecycle.ACTIVE if visits >= settings.active_min_visits_28d else Lifecycle.CASUAL
    return state, _days(since_new_s)


def with_seen(
    activity: Mapping[str, FeatureValue], seen_unix_s: Sequence[int], *, settings: LifecycleSettings
) -> dict[str, FeatureValue]:
    """The row after events it may not know yet, such as the streamed history: first, last seen and the return.

    So a dormant user who clicked a second ago is `resurrected` now, not after the next build.
    Counts of events and visits stay the row's.
    """
    row = dict(activity)
    for seen in sorted(seen_unix_s):
        last = _number(row, "last_seen_unix_s")
        if last is not None and seen <= last:
            continue
        if last is None:
            row["first_seen_unix_s"] = seen
        elif seen - last >= settings.dormant_after_days * DAY_S:
            row["returned_unix_s"] = seen
        row["last_seen_unix_s"] = seen
    return row


def _number(row: Mapping[str, FeatureValue], name: str) -> float | None:
    value = row.get(name)
    return value if isinstance(value, int | float) else None


def _days(seconds: float) -> float:
    """Never negative: an event may lie a little in the future."""
    return max(seconds, 0.0) / DAY_S
