"""Domain → wire, pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from feature_repo.lifecycle import Lifecycle
from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import feedback_pb2, privacy_pb2
from serving.gateway.decisions.explaining import Explanation
from serving.gateway.domain import (
    Degradation,
    Experiment,
    FeatureGroup,
    FeatureGroups,
    GroupStatus,
    RankedItem,
    Ranking,
    User,
    Verdict,
)
from serving.gateway.feedback.recording import Fate, Outcome

if TYPE_CHECKING:
    from feature_repo.privacy.erasure import Proof

VERDICTS: Final = {verdict: pb.Decision.Value(f"DECISION_{verdict.name}") for verdict in Verdict}
LIFECYCLES: Final = {state: pb.Lifecycle.Value(f"LIFECYCLE_{state.name}") for state in Lifecycle}
FATES: Final = {fate: feedback_pb2.EventAck.Status.Value(f"STATUS_{fate.name}") for fate in Fate}
STATUSES: Final = {status: pb.FeatureStatus.Status.Value(f"STATUS_{status.name}") for status in GroupStatus}


def encode_acks(
    request: feedback_pb2.RecordEventsRequest, outcomes: Sequence[Outcome]
) -> feedback_pb2.RecordEventsResponse:
    acks = [
        feedback_pb2.EventAck(event_id=event.event_id, status=FATES[outcome.fate], error=outcome.error)
        for event, outcome in zip(request.events, outcomes, strict=True)
    ]
    return feedback_pb2.RecordEventsResponse(acks=acks)


def encode_ranking(ranking: Ranking) -> pb.RankItemsResponse:
    response = pb.RankItemsResponse(
        decision_id=ranking.decision_id,
        decision=VERDICTS[ranking.verdict],
        decision_reason=ranking.reason,
        items=[_encode_item(item) for item in ranking.items] if ranking.verdict is Verdict.SHOW else [],
        user_state=encode_user(ranking.user),
        feature_status=encode_groups(ranking.groups) if ranking.user.user_id else [],
        degraded=bool(ranking.degradations),
        degraded_causes=encode_degradations(ranking.degradations),
        policy_version=ranking.policy_version,
        experiments=[_encode_experiment(one) for one in ranking.experiments],
        timings=[pb.StageTiming(stage=stage, duration_us=us) for stage, us in ranking.timings_us.items()],
        dropped=[pb.DroppedCount(reason=reason, count=count) for reason, count in sorted(ranking.dropped.items())],
    )
    if ranking.experiments:
        response.experiment.CopyFrom(response.experiments[0])
    if ranking.model is not None:
        model = ranking.model
        response.model.CopyFrom(pb.ModelVersion(name=model.name, version=model.version, label=model.label))
    return response


def encode_explanation(explanation: Explanation) -> pb.ExplainDecisionResponse:
    decision = explanation.decision
    return pb.ExplainDecisionResponse(
        answer=_encode_logged(explanation),
        decision_time=_timestamp(decision["at_unix_s"]),
        user_id=decision["user_id"],
        surface=decision["surface"],
        channel=decision["channel"],
        objective=pb.Objective.Value(f"OBJECTIVE_{decision['objective'].upper()}"),
        limit=decision["limit"],
        reproduced=not explanation.differences,
        differences=explanation.differences,
        considered=_encode_considered(decision),
        campaign_id=decision["campaign_id"],
        contact_propensity=decision["contact_propensity"],
        explores=decision["explores"],
    )


def _encode_logged(explanation: Explanation) -> pb.RankItemsResponse:
    """The answer as the log has it: without timings, and with what was degraded but no detail of it."""
    decision = explanation.decision
    experiments = [_encode_experiment(Experiment(**one)) for one in decision["experiments"]]
    has_model = decision["model_name"] is not None
    degraded = [cause.partition(":") for cause in decision["degraded"]]
    return pb.RankItemsResponse(
        decision_id=decision["decision_id"],
        decision=VERDICTS[Verdict(decision["decision"])],
        decision_reason=decision["reason"],
        items=[_encode_item(item) for item in explanation.items],
        user_state=pb.UserState(
            state=LIFECYCLES[Lifecycle(decision["state"])],
            days_in_state=decision["days_in_state"],
            p_alive=decision["p_alive"],
            history_length=decision["history_length"],
            tail_percentile=decision["tail_percentile"],
        ),
        feature_status=[
            _encode_status(one["group"], GroupStatus(one["status"]), one["age_s"]) for one in decision["features"]
        ],
        degraded=bool(degraded),
        degraded_causes=[pb.DegradedCause(dependency=what, cause=cause) for what, _, cause in degraded],
        model=pb.ModelVersion(name=decision["model_name"], version=decision["model_version"]) if has_model else None,
        policy_version=decision["policy_version"],
        experiment=experiments[0] if experiments else None,
        experiments=experiments,
        dropped=[pb.DroppedCount(reason=reason, count=count) for reason, count in sorted(decision["dropped"])],
    )


def _encode_considered(decision: Mapping[str, Any]) -> list[pb.ConsideredItem]:
    names = ("score", "relevance", "novelty", "exposures", "rate", "trials")
    columns = [decision[f"candidate_{name}"] for name in names]
    rows = zip(
        decision["candidate_item_ids"],
        decision["candidate_sources"],
        decision["candidate_categories"],
        *columns,
        strict=True,
    )
    return [
        pb.ConsideredItem(
            item_id=item_id,
            source=source,
            category=category,
            score=score,
            relevance=None if math.isnan(relevance) else relevance,
            novelty=novelty,
            exposures=exposures,
            rate=None if math.isnan(rate) else rate,
            trials=trials,
        )
        for item_id, source, category, score, relevance, novelty, exposures, rate, trials in rows
    ]


def encode_refusal(status: status_pb2.Status) -> pb.RankItemsResponse:
    error = pb.RankItemsError(code=status.code, message=status.message, details=status.details)
    return pb.RankItemsResponse(error=error)


def _encode_experiment(one: Experiment) -> pb.Experiment:
    return pb.Experiment(name=one.name, arm=one.arm, layer=one.layer, version=one.version)


def _encode_item(item: RankedItem) -> pb.RankedItem:
    return pb.RankedItem(
        item_id=item.item_id,
        rank=item.rank,
        score=item.score,
        value=item.value,
        propensity=item.propensity,
        source=item.source,
        is_exploration=item.is_exploration,
        reasons=[
            pb.Reason(term=term.name, term_value=term.value, weight=term.weight, text=term.text) for term in item.terms
        ],
    )


def encode_state(user: User, groups: FeatureGroups, degradations: Sequence[Degradation]) -> pb.GetUserStateResponse:
    return pb.GetUserStateResponse(
        user_state=encode_user(user),
        feature_status=encode_groups(groups),
        degraded=bool(degradations),
        degraded_causes=encode_degradations(degradations),
        history=[
            pb.Behavior(
                item_id=behavior.item_id, event_type=behavior.event_type, event_time=_timestamp(behavior.unix_s)
            )
            for behavior in user.history
        ],
    )


def encode_user(user: User) -> pb.UserState:
    return pb.UserState(
        state=LIFECYCLES[user.state],
        days_in_state=user.days_in_state,
        p_alive=user.p_alive,
        history_length=len(user.history),
        tail_percentile=user.tail_percentile,
        last_seen=None if user.last_seen_unix_s is None else _timestamp(user.last_seen_unix_s),
    )


def encode_groups(groups: FeatureGroups) -> list[pb.FeatureStatus]:
    return [_encode_group(group) for group in groups.values()]


def _encode_group(group: FeatureGroup) -> pb.FeatureStatus:
    return _encode_status(group.name, group.status, group.age_s)


def _encode_status(group: str, status: GroupStatus, age_s: float | None) -> pb.FeatureStatus:
    age = None if age_s is None else Duration()
    if age is not None and age_s is not None:
        age.FromMilliseconds(round(age_s * 1000))
    return pb.FeatureStatus(group=group, status=STATUSES[status], age=age)


def encode_degradations(degradations: Sequence[Degradation]) -> list[pb.DegradedCause]:
    return [pb.DegradedCause(dependency=one.dependency, cause=one.cause, detail=one.detail) for one in degradations]


def _timestamp(unix_s: float) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMilliseconds(round(unix_s * 1000))
    return timestamp


def encode_proof(proof: Proof) -> privacy_pb2.ForgetUserResponse:
    response = privacy_pb2.ForgetUserResponse(
        user_digest=proof.user,
        removals=[privacy_pb2.Removal(holder=each.holder, part=each.part, count=each.count) for each in proof.removed],
        kept=proof.kept,
        report=proof.file,
    )
    response.erase_time.FromDatetime(datetime.fromisoformat(proof.at))
    return response
