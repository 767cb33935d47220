"""Were caps, spacing and consent kept? Counted anew from what was sent, without the gateway's own rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from feature_repo.lifecycle import Lifecycle
from serving.gateway.policy.document import Caps, Policy

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A contact, and the user's state when it was decided."""

    user: int
    channel: str
    at_unix_s: float
    state: Lifecycle


def violations(sent: Iterable[Sent], opted_out_unix_s: Mapping[int, float], policy: Policy) -> list[str]:
    """One line for each rule that a contact broke."""
    found = []
    before: dict[int, list[Sent]] = defaultdict(list)
    for one in sorted(sent, key=lambda one: one.at_unix_s):
        if opted_out_unix_s.get(one.user, one.at_unix_s) < one.at_unix_s:
            found.append(f"user {one.user}: contacted after opting out")
        past = before[one.user]
        own = [one.at_unix_s - other.at_unix_s for other in past if other.channel == one.channel]
        every = [one.at_unix_s - other.at_unix_s for other in past]
        for ages_s, caps in ((own, policy.caps(one.state, one.channel)), (every, policy.contacts.caps)):
            found.extend(f"user {one.user}: {rule}" for rule in _broken(ages_s, caps))
        past.append(one)
    return found


def _broken(ages_s: list[float], caps: Caps) -> list[str]:
    limits = ((1, caps.contacts_1d), (7, caps.contacts_7d), (30, caps.contacts_30d))
    over = [f"over {most} in {days} days" for days, most in limits if sum(a < days * DAY_S for a in ages_s) >= most]
    return over + ["too soon"] * any(age_s < caps.spacing_h * 3600 for age_s in ages_s)
