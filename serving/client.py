"""A client for people: the commands rank, record and status."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from feature_repo.errors import LongtailError
from feature_repo.events import CONTACT_TYPES
from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import activation_pb2_grpc, feedback_pb2, feedback_pb2_grpc
from serving.client_credentials import PLAINTEXT, ClientCredentials

TIMEOUT_S = 5.0
DETAILS_KEY = "grpc-status-details-bin"
RESUMES = 5  # of a selection that a dependency broke off
RESUME_S = 2.0
LEAST_WIDTH = 120
WIDEST = 1000


class ClientError(LongtailError):
    """The gateway did not answer, or refused."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """What a gateway says of itself. Model and policy come from a ranking that it was asked for."""

    address: str
    health: str
    ranking: pb.RankItemsResponse


class Client:
    """Calls one gateway. Every failure is a ClientError that says what to do."""

    def __init__(
        self,
        address: str,
        *,
        credentials: ClientCredentials = PLAINTEXT,
        surface: str = "command_line",
        metrics_address: str = "",
        sign_in: str = "give --token-file",
    ) -> None:
        self.metrics_address = metrics_address  # empty: not known
        self._address = address
        self._surface = surface
        self._sign_in = sign_in
        self._credentials = credentials
        self._channel = credentials.channel(address)
        self._activation = activation_pb2_grpc.ActivationServiceStub(self._channel)
        self._feedback = feedback_pb2_grpc.FeedbackServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def rank(
        self, user_id: str, *, items: Sequence[str] = (), limit: int = 10, explain: bool = False
    ) -> pb.RankItemsResponse:
        request = pb.RankItemsRequest(
            user_id=user_id, candidate_item_ids=items, limit=limit, explain=explain, surface=self._surface
        )
        response: pb.RankItemsResponse = self._ask(self._activation.RankItems, request)
        return response

    def rank_many(self, user_ids: Iterable[str], *, limit: int = 10) -> Iterator[pb.RankItemsResponse]:
        """One answer per user, in order, over one stream; `error` is set where a user could not be ranked."""
        requests = (pb.RankItemsRequest(user_id=user_id, limit=limit, surface=self._surface) for user_id in user_ids)
        try:
            yield from self._activation.BatchRankItems(requests)
        except grpc.RpcError as error:
            raise ClientError(self._explain(error)) from error

    def record(
        self,
        user_id: str,
        *,
        event_type: str,
        item: str = "",
        time: datetime | None = None,
        value: float | None = None,
        surface: str | None = None,
        decision_id: str = "",
    ) -> feedback_pb2.EventAck:
        """Raises ClientError for an event that is refused. A naive time is UTC."""
        event = feedback_pb2.Event(
            event_id=uuid.uuid4().hex,
            user_id=user_id,
            item_id=item,
            event_type=event_type,
            event_time=None if time is None else _timestamp(time),
            value=value,
            surface=self._surface_of(event_type) if surface is None else surface,
            decision_id=decision_id,
        )
        request = feedback_pb2.RecordEventsRequest(events=[event])
        response: feedback_pb2.RecordEventsResponse = self._ask(self._feedback.RecordEvents, request)
        ack = response.acks[0]
        if ack.status == feedback_pb2.EventAck.STATUS_REJECTED:
            raise ClientError(f"the event was refused: {ack.error}")
        return ack

    def _surface_of(self, event_type: str) -> str:
        """Of a contact and of consent it is the channel, and none of ours."""
        return "" if event_type in CONTACT_TYPES else self._surface

    def state(self, user_id: str) -> pb.GetUserStateResponse:
        request = pb.GetUserStateRequest(user_id=user_id)
        response: pb.GetUserStateResponse = self._ask(self._activation.GetUserState, request)
        return response

    def explain(self, decision_id: str) -> pb.ExplainDecisionResponse:
        request = pb.ExplainDecisionRequest(decision_id=decision_id)
        response: pb.ExplainDecisionResponse = self._ask(self._activation.ExplainDecision, request)
        return response

    def select(self, request: pb.SelectUsersRequest) -> Iterator[pb.UserDecision]:
        """Goes on where a call was broken off by a dependency, up to `RESUMES` times."""
        told = 0
        for left in range(RESUMES, -1, -1):
            try:
                for place, decision in enumerate(
                    self._activation.SelectUsers(request, metadata=self._credentials.metadata)
                ):
                    if place >= told:
                        told = place + 1
                        yield decision
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not left:
                    raise ClientError(self._explain(error)) from error
                time.sleep(RESUME_S)
            else:
                return

    def status(self) -> Status:
        answer = self._ask(self._health.Check, health_pb2.HealthCheckRequest())
        health = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        ranking = self.rank("longtail-status", limit=1)
        return Status(address=self._address, health=health, ranking=ranking)

    def _ask(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return method(request, timeout=TIMEOUT_S, metadata=self._credentials.metadata)
        except grpc.RpcError as error:
            raise ClientError(self._explain(error)) from error

    def _explain(self, error: grpc.RpcError) -> str:
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.UNAVAILABLE and not _is_refusal(error):
            hint = "--address" if self._credentials.is_encrypted else "--address, or --ca where it speaks TLS"
            return f"no gateway answers at {self._address}; start one with `longtail up`, or give {hint} ({details})"
        if code is grpc.StatusCode.UNAUTHENTICATED:
            return f"the gateway at {self._address} answered {code.name}: {details} ({self._sign_in})"
        if code is grpc.StatusCode.CANCELLED:
            return f"the gateway at {self._address} has more calls waiting than it takes; try again in a moment"
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return f"what answers at {self._address} is no longtail gateway; give --address"
        return f"the gateway at {self._address} answered {code.name}: {details}"


def _is_refusal(error: grpc.RpcError) -> bool:
    """The gateway itself says why; a connection that fails has no such details."""
    return any(one.key == DETAILS_KEY for one in error.trailing_metadata() or ())


def print_ranking(answer: pb.RankItemsResponse) -> None:
    columns = ("rank", "item", "score", "value", "propensity", "source", "why")
    table = Table(*(Column(name, no_wrap=True) for name in columns))
    for item in answer.items:
        notes = [f"{one.term} {one.term_value:.3f}^{one.weight:.3g}" for one in item.reasons]
        if item.is_exploration:
            notes.insert(0, "explored")
        cells = (f"{item.rank}", item.item_id, f"{item.score:.4f}", f"{item.value:.4f}", f"{item.propensity:.4g}")
        table.add_row(*(Text(cell) for cell in (*cells, item.source, " × ".join(notes))))
    console = _console()
    console.print(_describe(answer.user_state))
    if answer.decision != pb.DECISION_SHOW:
        console.print(Text(f"{pb.Decision.Name(answer.decision).removeprefix('DECISION_')}: {answer.decision_reason}"))
    unbounded = console.options.update(width=WIDEST)
    console.width = max(console.width, console.measure(table, options=unbounded).maximum)  # a cut id would be no id
    console.print(table)
    dropped = ", ".join(f"{one.count} {one.reason}" for one in answer.dropped)
    console.print(Text(f"not shown: {dropped or 'none'}"))
    console.print(Text(f"model {_model(answer)}   policy {answer.policy_version}   decision {answer.decision_id}"))
    _print_causes(console, answer.degraded_causes)


def print_explanation(answer: pb.ExplainDecisionResponse) -> None:
    console = _console()
    time = answer.decision_time.ToDatetime(tzinfo=UTC).isoformat(sep=" ", timespec="milliseconds")
    objective = pb.Objective.Name(answer.objective).removeprefix("OBJECTIVE_").lower()
    where = f"surface {answer.surface or '–'}, channel {answer.channel or '–'}"
    console.print(Text(f"user {answer.user_id or '–'} at {time}, {where}, objective {objective}, limit {answer.limit}"))
    print_ranking(answer.answer)
    _print_groups(console, answer.answer.feature_status)
    console.print(Text(f"{len(answer.considered)} items were considered; --considered lists them"))
    if answer.reproduced:
        console.print(Text("computed again, it is the same to the last bit"))
    for difference in answer.differences:
        console.print(Text(f"not the same: {difference}", style="yellow"))


def print_considered(answer: pb.ExplainDecisionResponse) -> None:
    """What the policy was told of each candidate."""
    table = Table("item", "source", "category", "score", "novelty", "exposures", "rate", "trials")
    for one in answer.considered:
        score = one.relevance if one.HasField("relevance") else one.score
        rate = f"{one.rate:.4f}" if one.HasField("rate") else "–"
        numbers = (f"{score:.4f}", f"{one.novelty:.3f}", f"{one.exposures:.2f}", rate, f"{one.trials:g}")
        table.add_row(*(Text(cell) for cell in (one.item_id, one.source, one.category, *numbers)))
    _console().print(table)


def print_ack(ack: feedback_pb2.EventAck) -> None:
    name = feedback_pb2.EventAck.Status.Name(ack.status).removeprefix("STATUS_").lower()
    _console().print(Text(f"event {ack.event_id} {name}"))


def print_status(status: Status, *, workers: str) -> None:
    console = _console()
    ranking = status.ranking
    console.print(Text(f"gateway {status.address} is {status.health}"))
    console.print(Text(f"workers {workers}"))
    console.print(Text(f"model   {_model(ranking)}"))
    arms = ", ".join(f"{one.name}/{one.arm}" for one in ranking.experiments)
    console.print(Text(f"policy  {ranking.policy_version}{', experiments ' if arms else ''}{arms}"))
    _print_causes(console, ranking.degraded_causes)


def print_state(answer: pb.GetUserStateResponse) -> None:
    console = _console()
    console.print(_describe(answer.user_state))
    _print_groups(console, answer.feature_status)
    history = Table("time", "did", "item")
    for behavior in answer.history[:10]:
        time = behavior.event_time.ToDatetime(tzinfo=UTC).isoformat(sep=" ", timespec="seconds")
        history.add_row(time, Text(behavior.event_type), Text(behavior.item_id))
    console.print(history)
    _print_causes(console, answer.degraded_causes)


def _print_groups(console: Console, groups: Iterable[pb.FeatureStatus]) -> None:
    table = Table("features", "status", "age")
    for group in groups:
        age = f"{group.age.ToSeconds() / 3600:.1f} h" if group.HasField("age") else ""
        table.add_row(group.group, pb.FeatureStatus.Status.Name(group.status).removeprefix("STATUS_").lower(), age)
    console.print(table)


def _describe(user: pb.UserState) -> Text:
    state = pb.Lifecycle.Name(user.state).removeprefix("LIFECYCLE_").lower()
    alive = f", alive with probability {user.p_alive:.2f}" if user.HasField("p_alive") else ""
    return Text(
        f"{state} for {user.days_in_state:.1f} days, {user.history_length} behaviours known, "
        f"tail percentile {user.tail_percentile:.2f}{alive}"
    )


def _model(answer: pb.RankItemsResponse) -> str:
    if not answer.HasField("model"):
        return "none: item statistics order"
    label = f" ({answer.model.label})" if answer.model.label else ""
    return f"{answer.model.name} {answer.model.version}{label}"


def _print_causes(console: Console, causes: Sequence[pb.DegradedCause]) -> None:
    for cause in causes:
        console.print(Text(f"degraded: {cause.dependency}: {cause.cause}: {cause.detail}", style="yellow"))


def _timestamp(time: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(time if time.tzinfo is None else time.astimezone(UTC))
    return timestamp


def _console() -> Console:
    """Wide enough for a line of a table, also into a pipe."""
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, LEAST_WIDTH)
    return console
