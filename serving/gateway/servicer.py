"""ActivationService and FeedbackService: permit, decode, ask, encode. Errors are the boundary's business."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc

from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import activation_pb2_grpc, feedback_pb2, feedback_pb2_grpc
from serving.gateway.access.gate import Gate
from serving.gateway.campaigns.selecting import Selector
from serving.gateway.campaigns.selection_wire import decode_selection
from serving.gateway.course import Course
from serving.gateway.deadline import Deadline, Stage
from serving.gateway.decisions.explaining import Explain
from serving.gateway.domain import Query
from serving.gateway.errors import RefusalError, SelectionFailedError
from serving.gateway.feedback.recording import Feedback
from serving.gateway.load.permits import Permits
from serving.gateway.observing import tracing
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.pipeline import rank, read_features
from serving.gateway.policy.book import PolicyBook
from serving.gateway.ports import Ports
from serving.gateway.settings import GatewaySettings
from serving.gateway.user import describe
from serving.gateway.wire import decoding, encoding
from serving.gateway.wire.boundary import status_of
from serving.gateway.wire.stream import Lane, answer_in_order

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
        explain: Explain,
        lane: Lane,
        selector: Selector | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ports = ports
        self._explain = explain
        self._gate = gate
        self._policies = policies
        self._permits = permits
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._lane = lane
        self._selector = selector

    async def RankItems(self, request: pb.RankItemsRequest, context: Context) -> pb.RankItemsResponse:  # noqa: N802
        is_low = request.priority == pb.PRIORITY_BATCH
        if not is_low:
            self._lane.give_way()
        async with self._permits.take(low=is_low):
            return await self._rank(request, context, self._deadline(context))

    async def BatchRankItems(  # noqa: N802
        self, requests: AsyncIterator[pb.RankItemsRequest | RefusalError], context: Context
    ) -> AsyncIterator[pb.RankItemsResponse]:
        most_s = self._settings.max_deadline_ms / 1000

        async def answer(request: pb.RankItemsRequest | RefusalError) -> pb.RankItemsResponse:
            try:
                if isinstance(request, RefusalError):
                    raise request
                request.priority = pb.PRIORITY_BATCH
                async with self._lane.enter():
                    left_s = context.time_remaining()
                    budget_s = most_s if left_s is None else min(left_s, most_s)
                    with tracing.span("answer"):
                        return await self._rank(request, context, Deadline.after(budget_s, self._settings.stages))
            except RefusalError as refusal:
                return encoding.encode_refusal(status_of(refusal))

        async for response in answer_in_order(requests, answer, ahead=2 * self._settings.batch_users):
            yield response

    async def _rank(self, request: pb.RankItemsRequest, context: Context, deadline: Deadline) -> pb.RankItemsResponse:
        now_unix_s = self._clock()
        query = decoding.decode_query(request, now_unix_s=now_unix_s)
        moment = self._moment(query, context, now_unix_s)
        ranking = await rank(
            query, ports=self._ports, policy=self._policies.policy, now_unix_s=moment, deadline=deadline
        )
        self._telemetry.observe(ranking)
        return encoding.encode_ranking(ranking)

    async def GetUserState(self, request: pb.GetUserStateRequest, context: Context) -> pb.GetUserStateResponse:  # noqa: N802
        async with self._permits.take():
            deadline = self._deadline(context)
            now_unix_s = self._clock()
            query = decoding.decode_state_query(request, now_unix_s=now_unix_s)
            moment = self._moment(query, context, now_unix_s)
            course = Course(deadline, require_full=False)
            groups = await read_features(
                query, self._ports, course, now_unix_s=moment, timeout_s=deadline.timeout_s(Stage.SCORE)
            )
            user, _ = describe(query, groups, now_unix_s=moment, lifecycle=self._ports.lifecycle)
        return encoding.encode_state(user, groups, course.degradations)

    async def SelectUsers(  # noqa: N802
        self, request: pb.SelectUsersRequest, context: Context
    ) -> AsyncIterator[pb.UserDecision]:
        policy = self._policies.policy
        selection = decode_selection(request, policy=policy)
        if self._selector is None:
            raise SelectionFailedError("this gateway keeps no campaigns")
        async for decision in self._selector.select(selection, policy, self._clock):
            yield decision

    async def ExplainDecision(  # noqa: N802
        self, request: pb.ExplainDecisionRequest, context: Context
    ) -> pb.ExplainDecisionResponse:
        decision_id = decoding.decode_decision_id(request)
        async with self._permits.take(low=True):
            return encoding.encode_explanation(await self._explain(decision_id))

    def _deadline(self, context: Context) -> Deadline:
        """The caller's, cut to ours."""
        asked_s = context.time_remaining()
        most_s = self._settings.max_deadline_ms / 1000
        budget_s = self._settings.default_deadline_ms / 1000 if asked_s is None else min(asked_s, most_s)
        return Deadline.after(budget_s, self._settings.stages)

    def _moment(self, query: Query, context: Context, now_unix_s: float) -> float:
        if query.now_unix_s is None:
            return now_unix_s
        self._gate.check_replay(context.peer())
        return query.now_unix_s


class FeedbackServicer(feedback_pb2_grpc.FeedbackServiceServicer):
    def __init__(self, *, feedback: Feedback, permits: Permits, clock: Callable[[], float] = time.time) -> None:
        self._feedback = feedback
        self._permits = permits
        self._clock = clock

    async def RecordEvents(  # noqa: N802
        self, request: feedback_pb2.RecordEventsRequest, context: Context
    ) -> feedback_pb2.RecordEventsResponse:
        async with self._permits.take():
            decoding.check_event_count(request)
            now = datetime.fromtimestamp(self._clock(), UTC)
            events = [decoding.decode_event(event, now=now) for event in request.events]
            outcomes = await self._feedback.record(events, now=now)
        return encoding.encode_acks(request, outcomes)
