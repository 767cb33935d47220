"""The one kind of fact everything is made of: a user did something to an item at a time, or was contacted."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

MAX_ID_BYTES: Final = 256  # user_id, item_id
MAX_EVENT_ID_BYTES: Final = 128  # event_id, surface, decision_id
EVENT_TYPE_PATTERN: Final = "^[a-z][a-z0-9_]{0,63}$"
MAX_FUTURE: Final = timedelta(days=1)  # clocks of callers differ
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

EXPOSURE: Final = "exposure"  # the event type that says an item was shown
CONTACT: Final = "contact"  # we wrote to the user; `surface` is the channel, such as "push" or "email"
OPT_OUT: Final = "opt_out"  # the user wants no more contacts on the channel `surface`; "" is every channel
OPT_IN: Final = "opt_in"  # the user takes an opt_out of the same `surface` back
CHOICES: Final = (OPT_OUT, OPT_IN)  # hold however old they are, until the user says otherwise
CONTACT_TYPES: Final = (CONTACT, OPT_OUT, OPT_IN)  # need no item, and are never engagements
NOT_ACTIVITY: Final = (EXPOSURE, *CONTACT_TYPES)  # what we did, or a choice of channels: no visit of the user

_EVENT_TYPE: Final = re.compile(EVENT_TYPE_PATTERN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One row of the event log; the fields are its columns. `event_time` is aware UTC.

    `item_id` is empty only where the event is of no item, which CONTACT_TYPES may be.
    """

    event_id: str
    user_id: str
    item_id: str
    event_type: str
    event_time: datetime
    value: float | None = None
    surface: str = ""
    decision_id: str = ""


def refusal(event: Event, *, now: datetime) -> str | None:
    """Why the event cannot be taken, for its sender to read; None when it can."""
    return (
        _id_refusal("event_id", event.event_id, MAX_EVENT_ID_BYTES, needed=True)
        or _id_refusal("user_id", event.user_id, MAX_ID_BYTES, needed=True)
        or _id_refusal("item_id", event.item_id, MAX_ID_BYTES, needed=event.event_type not in CONTACT_TYPES)
        or _type_refusal(event.event_type)
        or _time_refusal(event.event_time, now)
        or _value_refusal(event.value)
        or _id_refusal("surface", event.surface, MAX_EVENT_ID_BYTES, needed=False)
        or _id_refusal("decision_id", event.decision_id, MAX_EVENT_ID_BYTES, needed=False)
    )


def _id_refusal(name: str, given: str, max_bytes: int, *, needed: bool) -> str | None:
    if needed and not given:
        return f"{name} is empty; give 1 to {max_bytes} bytes"
    try:
        size = len(given.encode())
    except UnicodeEncodeError:
        return f"{name} is not valid Unicode (a lone surrogate); give UTF-8 text"
    return f"{name} has {size} bytes; at most {max_bytes} are allowed" if size > max_bytes else None


def _type_refusal(event_type: str) -> str | None:
    if _EVENT_TYPE.fullmatch(event_type):
        return None
    return f"event_type is {event_type[:80]!r}; give lower_snake_case of at most 64 bytes, such as 'view' or 'purchase'"


def _time_refusal(event_time: datetime, now: datetime) -> str | None:
    if event_time.tzinfo is None:
        return f"event_time {event_time.isoformat()} has no time zone; give UTC"
    if event_time < EPOCH:
        return f"event_time {event_time.isoformat()} is before 1970; is its unit right?"
    if event_time > now + MAX_FUTURE:
        return f"event_time {event_time.isoformat()} is over a day after now ({now.isoformat()}); is the clock right?"
    return None


def _value_refusal(value: float | None) -> str | None:
    if value is None or math.isfinite(value):
        return None
    return f"value is {value}; give a finite number, or none"
