"""May this user be contacted on this channel now: pure. The first rule that refuses is the reason."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from feature_repo.contract import FeatureValue
from feature_repo.lifecycle import Lifecycle
from feature_repo.online.packed_lists import times, words
from serving.gateway.policy.checks import DAYS, spelled
from serving.gateway.policy.document import Caps, ChannelSection, Policy

DAY_S: Final = 86_400.0
HOUR_S: Final = 3_600.0

OPTED_OUT: Final = "opted_out"
QUIET_HOURS: Final = "quiet_hours"
RAMP_UP: Final = "ramp_up"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contacts:
    """What was sent, and what the user wants no more; "" among `opted_out` is every channel.

    Channels are spelled as `spelled` does: whoever opted out of `Email` gets nothing on `email`.
    """

    sent: tuple[tuple[str, float], ...] = ()  # (channel, unix_s), any order
    opted_out: frozenset[str] = frozenset()

    @classmethod
    def of(cls, row: Mapping[str, FeatureValue]) -> Contacts:
        """From a row of `user_contacts`."""
        channels = map(spelled, words(_list(row.get("contact_channel_places")), _list(row.get("channels"))))
        sent = tuple(zip(channels, map(float, times(_list(row.get("contact_gaps_s")))), strict=False))
        return cls(sent=sent, opted_out=frozenset(map(spelled, _list(row.get("opted_out_channels")))))


def with_chosen(recorded: Contacts, chosen: Sequence[tuple[str, float]]) -> list[Contacts]:
    """What may have happened: all chosen; and all recorded, with what was chosen after the last of each channel.

    A chosen contact and its event are one contact with two times. Either list alone may miss some, so both must allow.
    """
    last: dict[str, float] = {}
    for channel, at in recorded.sent:
        last[channel] = max(at, last.get(channel, at))
    planned = [(spelled(channel), at) for channel, at in chosen]
    pending = [(channel, at) for channel, at in planned if at > last.get(channel, -math.inf)]
    return [
        Contacts(sent=(*recorded.sent, *pending), opted_out=recorded.opted_out),
        Contacts(sent=tuple(planned), opted_out=recorded.opted_out),
    ]


def refusal(
    channel: str,
    histories: Iterable[Contacts],
    *,
    state: Lifecycle,
    days_in_state: float,
    policy: Policy,
    now_unix_s: float,
) -> str:
    """Empty when the user may be contacted. Several histories are views of the same past: each has to allow it."""
    section = policy.channels[channel]
    if is_quiet(section, now_unix_s):
        return QUIET_HOURS
    ramp_up_days = policy.state(state).ramp_up_days
    share = min(days_in_state / ramp_up_days, 1.0) if ramp_up_days > 0 else 1.0
    own_name = spelled(channel)
    for contacts in histories:
        if contacts.opted_out & {own_name, ""}:
            return OPTED_OUT
        own = [now_unix_s - at for sent, at in contacts.sent if sent == own_name]
        every = [now_unix_s - at for _, at in contacts.sent]
        reason = _over(policy.caps(state, channel), own, share) or _over(
            policy.contacts.caps, every, share, over="all_channels_"
        )
        if reason:
            return reason
    return ""


def _over(caps: Caps, ages_s: Sequence[float], share: float, *, over: str = "") -> str:
    if any(age_s < caps.spacing_h * HOUR_S for age_s in ages_s):
        return f"{over}spacing"
    for days, cap in zip(DAYS, (caps.contacts_1d, caps.contacts_7d, caps.contacts_30d), strict=True):
        count = sum(age_s < days * DAY_S for age_s in ages_s)
        if count >= cap:
            return f"{over}cap_{days}d"
        if count >= math.floor(cap * share):
            return RAMP_UP
    return ""


def is_quiet(channel: ChannelSection, now_unix_s: float) -> bool:
    """
    >>> channel = ChannelSection(caps=Caps(contacts_1d=1, contacts_7d=1, contacts_30d=1, spacing_h=0), quiet_from_h=21,
    ...     quiet_until_h=8)
    >>> [is_quiet(channel, hour * 3600.0) for hour in (20, 21, 7, 8)]
    [False, True, True, False]
    """
    hour = (now_unix_s / HOUR_S + channel.utc_offset_h) % 24
    start, end = channel.quiet_from_h, channel.quiet_until_h
    return start <= hour < end if start <= end else hour >= start or hour < end


def _list(value: FeatureValue) -> list[Any]:
    return value if isinstance(value, list) else []
