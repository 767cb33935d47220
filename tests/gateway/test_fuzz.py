"""No request, however odd, is answered INTERNAL or UNKNOWN."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import feedback_pb2 as fb
from serving.gateway.app import build
from serving.gateway.feedback.recording import Feedback
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.policy.book import PolicyBook
from serving.gateway.settings import GatewaySettings
from tests.gateway.fakes import NOW_S, World

FINE = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
Call = Callable[[str, bytes], grpc.StatusCode]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ids = st.sampled_from(["active", "casual", "dormant", "nobody", "i00", "i10", "i39"]) | texts
int64s = st.integers(-(2**63), 2**63 - 1)
int32s = st.integers(-(2**31), 2**31 - 1)
times = st.fixed_dictionaries(
    {
        "seconds": st.sampled_from([0, int(NOW_S), int(NOW_S) - 86_400, 253_402_300_799]) | int64s,
        "nanos": st.just(0) | int32s,
    }
)
behaviors = st.fixed_dictionaries({"item_id": ids}, optional={"event_type": ids, "event_time": times})
ranks = st.fixed_dictionaries(
    {"user_id": ids},
    optional={
        "history": st.lists(behaviors, max_size=5),
        "candidate_item_ids": st.lists(ids, max_size=30),
        "sources": st.lists(st.integers(0, 4), max_size=4),
        "limit": st.integers(-1, 250) | int32s,
        "surface": texts,
        "channel": texts,
        "objective": st.integers(0, 5) | int32s,
        "exclude_item_ids": st.lists(ids, max_size=5),
        "require_full": st.booleans(),
        "explain": st.booleans(),
        "now": times,
        "idempotency_key": texts,
        "priority": st.integers(-1, 3),
    },
).map(lambda fields: pb.RankItemsRequest(**fields))  # type: ignore[arg-type]
events = st.fixed_dictionaries(
    {"event_id": ids, "user_id": ids, "item_id": ids, "event_type": st.sampled_from(["click", "view"]) | texts},
    optional={"event_time": times, "value": st.floats(), "surface": texts, "decision_id": texts},
)
records = st.lists(events, max_size=5).map(lambda given: fb.RecordEventsRequest(events=given))  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["well", "down"])
def call(request: pytest.FixtureRequest) -> Iterator[Call]:
    """Sends bytes to a method of a gateway whose dependencies are all well, or all down."""
    from serving.gateway.errors import Cause, FeaturesError, ModelError

    with asyncio.Runner() as runner:
        world = World()
        if request.param == "down":
            world.features.error = FeaturesError(Cause.UNAVAILABLE, "down")
            world.model.error = ModelError(Cause.UNAVAILABLE, "down")
        telemetry = Telemetry()
        feedback = Feedback(world.events, telemetry)
        gateway = build(
            GatewaySettings(address="127.0.0.1:0", drain_s=0, allow_replay=True),
            ports=world.ports(),
            policies=PolicyBook(),
            feedback=feedback,
            telemetry=telemetry,
            clock=lambda: NOW_S,
        )
        runner.run(gateway.start())

        async def connect() -> grpc.aio.Channel:
            return grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}")

        channel = runner.run(connect())

        async def send(method: str, data: bytes) -> grpc.StatusCode:
            stub: Any = channel.unary_unary(f"/longtail.activation.v1.{method}")
            try:
                await stub(data, timeout=10)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        yield lambda method, data: runner.run(send(method, data))

        async def end(*waits: Awaitable[Any]) -> None:
            for wait in waits:
                await wait

        runner.run(end(channel.close(), gateway.drain()))
        feedback.close()


often = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@often
@given(request=ranks)
def test_rank_items_answers_or_refuses_any_request(call: Call, request: pb.RankItemsRequest) -> None:
    code = call("ActivationService/RankItems", request.SerializeToString())
    assert code in FINE | ({grpc.StatusCode.UNAVAILABLE} if request.require_full else set())


@often
@given(request=records)
def test_record_events_answers_or_refuses_any_request(call: Call, request: fb.RecordEventsRequest) -> None:
    assert call("FeedbackService/RecordEvents", request.SerializeToString()) in FINE


@often
@given(
    request=ranks | records,
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    method=st.sampled_from(
        [
            "ActivationService/RankItems",
            "ActivationService/GetUserState",
            "ActivationService/ExplainDecision",
            "FeedbackService/RecordEvents",
        ]
    ),
)
def test_mutated_bytes_are_answered_or_refused(
    call: Call, request: pb.RankItemsRequest | fb.RecordEventsRequest, places: list[tuple[float, int]], method: str
) -> None:
    data = bytearray(request.SerializeToString() or b"\0")
    for place, value in places:
        data[int(place * (len(data) - 1))] = value
    assert call(method, bytes(data)) in FINE | {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND}


@often
@given(
    data=st.binary(max_size=200),
    method=st.sampled_from(["ActivationService/RankItems", "FeedbackService/RecordEvents"]),
)
def test_random_bytes_are_answered_or_refused(call: Call, data: bytes, method: str) -> None:
    assert call(method, data) in FINE | {grpc.StatusCode.UNAVAILABLE}
