"""Answers of the gateway as the rows that a page shows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp

from longtail.activation.v1 import activation_pb2 as pb

Line = dict[str, str | int]
NONE = "–"


def state_name(user: pb.UserState) -> str:
    return pb.Lifecycle.Name(user.state).removeprefix("LIFECYCLE_").lower()


def state_facts(user: pb.UserState) -> list[tuple[str, str]]:
    """What is known of a user, as pairs of name and value."""
    return [
        ("state", state_name(user)),
        ("days in it", f"{user.days_in_state:.1f}"),
        ("probability of being alive", f"{user.p_alive:.2f}" if user.HasField("p_alive") else NONE),
        ("tail percentile", f"{user.tail_percentile:.2f}"),
        ("behaviours known", f"{user.history_length}"),
        ("last seen", _time(user.last_seen) if user.HasField("last_seen") else "never"),
    ]


def feature_lines(groups: Sequence[pb.FeatureStatus]) -> list[Line]:
    return [
        {
            "view": group.group,
            "status": pb.FeatureStatus.Status.Name(group.status).removeprefix("STATUS_").lower(),
            "age": _age(group.age.ToSeconds()) if group.HasField("age") else NONE,
        }
        for group in groups
    ]


def history_lines(history: Sequence[pb.Behavior]) -> list[Line]:
    return [
        {"place": place, "time": _time(one.event_time), "did": one.event_type, "item": one.item_id}
        for place, one in enumerate(history, start=1)
    ]


def ranking_lines(items: Sequence[pb.RankedItem]) -> list[Line]:
    return [
        {
            "rank": item.rank,
            "item": item.item_id,
            "score": f"{item.score:.4f}",
            "value": f"{item.value:.4f}",
            "propensity": f"{item.propensity:.4g}",
            "source": item.source,
            "why": why(item),
        }
        for item in items
    ]


def why(item: pb.RankedItem) -> str:
    """Such as `explored; relevance 0.031^1 × novelty 0.900^0.2`, without the terms that change nothing."""
    telling = [one for one in item.reasons if one.weight != 0 and one.term_value != 1]
    terms = " × ".join(f"{one.term} {one.term_value:.3f}^{one.weight:.3g}" for one in telling)
    return "; ".join(part for part in ("explored" if item.is_exploration else "", terms) if part)


def ranking_facts(answer: pb.RankItemsResponse) -> list[tuple[str, str]]:
    """Which model, policy and experiments made an answer, how long it took, and what was left out."""
    model = f"{answer.model.name} {answer.model.version}" if answer.HasField("model") else "none: item statistics order"
    label = f" ({answer.model.label})" if answer.model.label else ""
    reason = f": {answer.decision_reason}" if answer.decision_reason else ""
    return [
        ("decision", pb.Decision.Name(answer.decision).removeprefix("DECISION_") + reason),
        ("decision id", answer.decision_id),
        ("model", model + label),
        ("policy", answer.policy_version),
        ("experiments", ", ".join(f"{one.name}/{one.arm}" for one in answer.experiments) or NONE),
        ("not shown", ", ".join(f"{one.count} {one.reason}" for one in answer.dropped) or "none"),
        ("time", ", ".join(f"{one.stage} {one.duration_us / 1000:.1f} ms" for one in answer.timings) or NONE),
    ]


def asked_facts(told: pb.ExplainDecisionResponse) -> list[tuple[str, str]]:
    """What a past decision was about."""
    return [
        ("user", told.user_id or "anonymous"),
        ("time", _time(told.decision_time)),
        ("surface", told.surface or NONE),
        ("channel", told.channel or NONE),
        ("objective", pb.Objective.Name(told.objective).removeprefix("OBJECTIVE_").lower()),
        ("limit", f"{told.limit}"),
        ("campaign", told.campaign_id or NONE),
    ]


def considered_lines(considered: Sequence[pb.ConsideredItem]) -> list[Line]:
    return [
        {
            "item": one.item_id,
            "source": one.source,
            "category": one.category,
            "score": f"{one.relevance if one.HasField('relevance') else one.score:.4f}",
            "novelty": f"{one.novelty:.3f}",
            "exposures": f"{one.exposures:.2f}",
            "rate": f"{one.rate:.4f}" if one.HasField("rate") else NONE,
            "trials": f"{one.trials:g}",
        }
        for one in considered
    ]


def degraded_texts(causes: Sequence[pb.DegradedCause]) -> list[str]:
    return [f"{cause.dependency}: {cause.cause}: {cause.detail}" for cause in causes]


def compared_lines(one: pb.RankItemsResponse, other: pb.RankItemsResponse) -> list[Line]:
    """Every item of either ranking, in the order of the first, then of the second, and how it moved."""
    ours, theirs = _by_id(one.items), _by_id(other.items)
    return [
        {
            "item": item,
            "rank_a": ours[item].rank if item in ours else NONE,
            "rank_b": theirs[item].rank if item in theirs else NONE,
            "score_a": f"{ours[item].score:.4f}" if item in ours else NONE,
            "score_b": f"{theirs[item].score:.4f}" if item in theirs else NONE,
            "moved": _moved(ours.get(item), theirs.get(item)),
        }
        for item in dict.fromkeys([*ours, *theirs])
    ]


def _by_id(items: Sequence[pb.RankedItem]) -> Mapping[str, pb.RankedItem]:
    return {item.item_id: item for item in items}


def _moved(ours: pb.RankedItem | None, theirs: pb.RankedItem | None) -> str:
    if ours is None or theirs is None:
        return "only in B" if ours is None else "only in A"
    places = ours.rank - theirs.rank
    return "same" if places == 0 else f"{'up' if places > 0 else 'down'} {abs(places)} in B"


def _time(moment: Timestamp) -> str:
    return moment.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M:%S")


def _age(seconds: float) -> str:
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds / length_s:.1f} {unit}"
    return f"{seconds:.0f} s"
