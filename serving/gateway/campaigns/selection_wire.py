"""SelectUsers between the wire and the domain, pure."""

from __future__ import annotations

import math
from typing import Final

from feature_repo.events import MAX_ID_BYTES
from feature_repo.lifecycle import Lifecycle
from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.campaigns.audience import Segment
from serving.gateway.campaigns.selection import DEFAULT_HOLDOUT_RATE, DEFAULT_ITEMS, Selection
from serving.gateway.domain import FeatureGroups, User, Verdict
from serving.gateway.policy.document import Policy
from serving.gateway.wire.decoding import MAX_KEY_BYTES, MAX_LIMIT, Checks
from serving.gateway.wire.encoding import LIFECYCLES, VERDICTS, encode_groups, encode_user

MAX_USERS: Final = 100_000
MAX_DAYS: Final = 36_500.0
STATES: Final = {value: state for state, value in LIFECYCLES.items()}


def decode_selection(request: pb.SelectUsersRequest, *, policy: Policy) -> Selection:
    """Raises InvalidRequestError with every violation."""
    checks = Checks()
    checks.size("campaign_id", request.campaign_id, least=1, most=MAX_KEY_BYTES)
    if not request.campaign_id.isprintable():
        checks.add(
            "campaign_id", f"is {request.campaign_id[:64]!r}; give one line that can be printed, for the reports"
        )
    if bool(request.user_ids) == request.HasField("segment"):
        checks.add("user_ids", "give either user_ids or segment; an empty segment is everybody")
    if checks.count(
        "user_ids", len(request.user_ids), most=MAX_USERS, advice="name a segment, or use several campaigns"
    ):
        for place, user_id in enumerate(request.user_ids):
            if not 1 <= len(user_id.encode()) <= MAX_ID_BYTES:
                checks.size(f"user_ids[{place}]", user_id, least=1, most=MAX_ID_BYTES)
    _check_budget(request, checks)
    for place, channel in enumerate(request.channels):
        if channel not in policy.channels:
            known = ", ".join(sorted(policy.channels)) or "none"
            checks.add(f"channels[{place}]", f"{channel[:64]!r} is no channel of the policy; there are {known}")
    if not policy.channels:
        checks.add("channels", "the policy has no channels; nobody can be contacted")
    if request.HasField("limit") and not 1 <= request.limit <= MAX_LIMIT:
        checks.add("limit", f"is {request.limit}; 1 to {MAX_LIMIT} are allowed, unset means {DEFAULT_ITEMS}")
    if request.HasField("holdout_rate") and not 0 <= request.holdout_rate <= 1:
        checks.add(
            "holdout_rate", f"is {request.holdout_rate:g}; 0 to 1 are allowed, unset means {DEFAULT_HOLDOUT_RATE}"
        )
    _check_cost(request, policy, checks)
    segment = _decode_segment(request.segment, checks) if request.HasField("segment") else None
    checks.close()
    return Selection(
        campaign_id=request.campaign_id,
        user_ids=tuple(request.user_ids),
        segment=segment,
        max_contacts=request.max_contacts if request.HasField("max_contacts") else None,
        max_cost=request.max_cost if request.HasField("max_cost") else None,
        channels=tuple(dict.fromkeys(request.channels)),
        limit=request.limit if request.HasField("limit") else DEFAULT_ITEMS,
        holdout_rate=request.holdout_rate if request.HasField("holdout_rate") else DEFAULT_HOLDOUT_RATE,
    )


def _check_budget(request: pb.SelectUsersRequest, checks: Checks) -> None:
    has_contacts, has_cost = request.HasField("max_contacts"), request.HasField("max_cost")
    if not (has_contacts or has_cost):
        checks.add("max_contacts", "there is no budget; set max_contacts or max_cost")
    if has_contacts and request.max_contacts < 1:
        checks.add("max_contacts", f"is {request.max_contacts}; 1 or more are allowed")
    if has_cost and not (math.isfinite(request.max_cost) and request.max_cost > 0):
        checks.add("max_cost", f"is {request.max_cost:g}; a number over 0 is allowed")


def _check_cost(request: pb.SelectUsersRequest, policy: Policy, checks: Checks) -> None:
    """A budget that pays for nobody would end the campaign without a word."""
    costs = [policy.channels[name].cost for name in request.channels or policy.channels if name in policy.channels]
    if costs and 0 < request.max_cost < min(costs):
        checks.add("max_cost", f"is {request.max_cost:g}; a contact on the cheapest channel costs {min(costs):g}")


def _decode_segment(segment: pb.Segment, checks: Checks) -> Segment:
    for place, state in enumerate(segment.states):
        if state not in STATES:
            checks.add(f"segment.states[{place}]", f"is {state}; there are {', '.join(Lifecycle)}")
    limits = {
        "min_tail_percentile": segment.min_tail_percentile if segment.HasField("min_tail_percentile") else None,
        "min_days_away": segment.min_days_away if segment.HasField("min_days_away") else None,
        "max_days_away": segment.max_days_away if segment.HasField("max_days_away") else None,
    }
    for name, limit in limits.items():
        most = 1.0 if name == "min_tail_percentile" else MAX_DAYS
        if limit is not None and not 0 <= limit <= most:
            checks.add(f"segment.{name}", f"is {limit:g}; 0 to {most:g} are allowed")
    least, most_away = limits["min_days_away"], limits["max_days_away"]
    if least is not None and most_away is not None and least > most_away:
        checks.add("segment.min_days_away", f"is {least:g}, over max_days_away, {most_away:g}: nobody is in between")
    return Segment(states=frozenset(STATES[state] for state in segment.states if state in STATES), **limits)


def encode_suppressed(user: User, groups: FeatureGroups, *, reason: str, policy_version: str) -> pb.RankItemsResponse:
    """Of a user for whom nothing was ranked."""
    return pb.RankItemsResponse(
        decision=VERDICTS[Verdict.SUPPRESSED],
        decision_reason=reason,
        user_state=encode_user(user),
        feature_status=encode_groups(groups),
        policy_version=policy_version,
    )
