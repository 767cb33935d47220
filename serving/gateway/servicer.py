"""ActivationService and FeedbackService: permit, decode, ask, encode. Errors are the boundary's business."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc

from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import activation_pb2_grpc, feedback_pb2, feedback_pb2_grpc
from serving.gateway import decoding, encoding
from serving.gateway.access.gate import Gate
from serving.gateway.course import Course
from serving.gateway.deadline import Deadline, Stage
from serving.gateway.domain import Query
from serving.gateway.feedback import Feedback
from serving.gateway.permits import Permits
from serving.gateway.pipeline import rank, read_features
from serving.gateway.policy_book import PolicyBook
from serving.gateway.ports import Ports
from serving.gateway.settings import GatewaySettings
from serving.gateway.telemetry import Telemetry
from serving.gateway.user import describe

if TYPE_CHECKING:  # generic only in its stubs
    Context = grpc.aio.ServicerContext[Any, Any]


class ActivationServicer(activation_pb2_grpc.ActivationServiceServicer):
    def __init__(
        self,
        *,
        ports: Ports,
        policies: PolicyBook,
        permits: Permits,
        settings: GatewaySettings,
        telemetry: Telemetry,
        gate: Gate,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ports = ports
        self._gate = gate
        self._policies = policies
        self._permits = permits
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock

    async def RankItems(self, request: pb.RankItemsRequest, context: Context) -> pb.RankItemsResponse:  # noqa: N802
        with self._permits.take(low=request.priority == pb.PRIORITY_BATCH):
            deadline = self._deadline(context)
            now_unix_s = self._clock()
            query = decoding.decode_query(request, now_unix_s=now_unix_s)
            moment = self._moment(query, now_unix_s)
            ranking = await rank(
                query, ports=self._ports, policy=self._policies.policy, now_unix_s=moment, deadline=deadline
            )
        self._telemetry.observe(ranking)
        return encoding.encode_ranking(ranking)

    async def GetUserState(self, request: pb.GetUserStateRequest, context: Context) -> pb.GetUserStateResponse:  # noqa: N802
        with self._permits.take():
            deadline = self._deadline(context)
            now_unix_s = self._clock()
            query = decoding.decode_state_query(request, now_unix_s=now_unix_s)
            moment = self._moment(query, now_unix_s)
            course = Course(deadline, require_full=False)
            groups = await read_features(
                query, self._ports, course, now_unix_s=moment, timeout_s=deadline.timeout_s(Stage.SCORE)
            )
            user, _ = describe(query, groups, now_unix_s=moment, lifecycle=self._ports.lifecycle)
        return encoding.encode_state(user, groups, course.degradations)

    def _deadline(self, context: Context) -> Deadline:
        """The caller's, cut to ours."""
        asked_s = context.time_remaining()
        most_s = self._settings.max_deadline_ms / 1000
        budget_s = self._settings.default_deadline_ms / 1000 if asked_s is None else min(asked_s, most_s)
        return Deadline.after(budget_s, self._settings.stages)

    def _moment(self, query: Query, now_unix_s: float) -> float:
        if query.now_unix_s is None:
            return now_unix_s
        self._gate.check_replay()
        return query.now_unix_s


class FeedbackServicer(feedback_pb2_grpc.FeedbackServiceServicer):
    def __init__(self, *, feedback: Feedback, permits: Permits, clock: Callable[[], float] = time.time) -> None:
        self._feedback = feedback
        self._permits = permits
        self._clock = clock

    async def RecordEvents(  # noqa: N802
        self, request: feedback_pb2.RecordEventsRequest, context: Context
    ) -> feedback_pb2.RecordEventsResponse:
        with self._permits.take():
            decoding.check_event_count(request)
            now = datetime.fromtimestamp(self._clock(), UTC)
            events = [decoding.decode_event(event, now=now) for event in request.events]
            outcomes = await self._feedback.record(events, now=now)
        return encoding.encode_acks(request, outcomes)
