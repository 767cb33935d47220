"""Permits, deadlines, and requests that are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from longtail.activation.v1 import activation_pb2 as pb
from tests.gateway.conftest import Running, Start, until
from tests.gateway.fakes import DAY_S, NOW_S, World

HISTORY = [pb.Behavior(item_id="i10", event_time=Timestamp(seconds=int(NOW_S)))]


def details(error: grpc.aio.AioRpcError, kind: Callable[[], Any]) -> Any:
    """The google.rpc detail of that kind."""
    wanted = kind()
    for detail in rpc_status.from_call(error).details:
        if detail.Unpack(wanted):
            return wanted
    raise AssertionError(f"no {kind} in {error}")


async def refusal(running: Running, request: pb.RankItemsRequest) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.activation.RankItems(request)
    return refused.value


BAD: list[tuple[str, pb.RankItemsRequest]] = [
    ("user_id", pb.RankItemsRequest()),
    ("user_id", pb.RankItemsRequest(user_id="u" * 10_000)),
    ("user_id", pb.RankItemsRequest(user_id="ж" * 129)),  # 258 bytes
    ("candidate_item_ids", pb.RankItemsRequest(user_id="u", candidate_item_ids=["i"] * 1001)),
    ("candidate_item_ids[1]", pb.RankItemsRequest(user_id="u", candidate_item_ids=["i", ""])),
    ("candidate_item_ids[0]", pb.RankItemsRequest(user_id="u", candidate_item_ids=["i" * 10_000])),
    ("exclude_item_ids", pb.RankItemsRequest(user_id="u", exclude_item_ids=["i"] * 1001)),
    ("exclude_item_ids[0]", pb.RankItemsRequest(user_id="u", exclude_item_ids=[""])),
    ("limit", pb.RankItemsRequest(user_id="u", limit=0)),
    ("limit", pb.RankItemsRequest(user_id="u", limit=-1)),
    ("limit", pb.RankItemsRequest(user_id="u", limit=201)),
    ("surface", pb.RankItemsRequest(user_id="u", surface="s" * 129)),
    ("channel", pb.RankItemsRequest(user_id="u", channel="c" * 65)),
    ("idempotency_key", pb.RankItemsRequest(user_id="u", idempotency_key="k" * 129)),
    ("objective", pb.RankItemsRequest(user_id="u", objective=99)),  # type: ignore[arg-type]
    ("priority", pb.RankItemsRequest(user_id="u", priority=-3)),  # type: ignore[arg-type]
    ("sources[0]", pb.RankItemsRequest(user_id="u", sources=[pb.CANDIDATE_SOURCE_UNSPECIFIED])),
    ("sources[0]", pb.RankItemsRequest(user_id="u", sources=[77])),  # type: ignore[list-item]
    ("history", pb.RankItemsRequest(history=HISTORY * 501)),
    ("history[0].item_id", pb.RankItemsRequest(history=[pb.Behavior(event_time=Timestamp(seconds=1))])),
    ("history[0].event_time", pb.RankItemsRequest(history=[pb.Behavior(item_id="i")])),
    (
        "history[0].event_time",
        pb.RankItemsRequest(history=[pb.Behavior(item_id="i", event_time=Timestamp(seconds=4_070_908_800))]),  # 2099
    ),
    (
        "history[0].event_time",
        pb.RankItemsRequest(history=[pb.Behavior(item_id="i", event_time=Timestamp(seconds=-1))]),
    ),
    (
        "history[0].event_type",
        pb.RankItemsRequest(history=[pb.Behavior(item_id="i", event_type="Click!", event_time=Timestamp(seconds=1))]),
    ),
    ("now", pb.RankItemsRequest(user_id="u", now=Timestamp(seconds=2**60))),
    ("now", pb.RankItemsRequest(user_id="u", now=Timestamp(seconds=1, nanos=-5))),
    ("now", pb.RankItemsRequest(user_id="u", now=Timestamp(seconds=int(NOW_S + 2 * DAY_S)))),
]


@pytest.mark.parametrize(("field", "request_"), BAD, ids=[f"{place}-{field}" for place, (field, _) in enumerate(BAD)])
async def test_a_field_out_of_its_range_is_named(
    start: Start, world: World, field: str, request_: pb.RankItemsRequest
) -> None:
    error = await refusal(await start(world), request_)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").startswith(f"{field}: ")
    assert details(error, error_details_pb2.BadRequest).field_violations[0].field == field
    assert details(error, error_details_pb2.ErrorInfo).reason == "INVALID_REQUEST"
    assert world.features.asked == []


async def test_every_violation_is_told_at_once(start: Start, world: World) -> None:
    error = await refusal(await start(world), pb.RankItemsRequest(limit=0, surface="s" * 999))
    fields = [one.field for one in details(error, error_details_pb2.BadRequest).field_violations]
    assert fields == ["user_id", "surface", "limit"]


async def test_a_thousand_violations_fit_into_a_trailer(start: Start, world: World) -> None:
    error = await refusal(await start(world), pb.RankItemsRequest(user_id="u", candidate_item_ids=["ж" * 999] * 1000))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len(details(error, error_details_pb2.BadRequest).field_violations) == 10


@pytest.mark.parametrize(
    "name", ["u", "u" * 256, "Ж" * 128, "用户", "مستخدم", "😀", "a\u0000b", "\u202e", "\n", "'; DROP TABLE", " "]
)
async def test_ids_of_any_script_are_taken(start: Start, world: World, name: str) -> None:
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id=name, candidate_item_ids=[name]))
    assert [item.item_id for item in answer.items] == [name]


@pytest.mark.parametrize("count", [0, 1, 1000])
async def test_up_to_a_thousand_candidates_are_ranked(start: Start, world: World, count: int) -> None:
    running = await start(world)
    items = [f"x{place}" for place in range(count)]
    answer = await running.activation.RankItems(
        pb.RankItemsRequest(user_id="casual", candidate_item_ids=items, limit=200)
    )
    kept = len(answer.items) + sum(one.count for one in answer.dropped)
    assert kept == count or count == 0
    assert len(answer.items) > 0


async def test_a_thousand_times_the_same_candidate_is_one(start: Start, world: World) -> None:
    running = await start(world)
    request = pb.RankItemsRequest(user_id="casual", candidate_item_ids=["i10"] * 1000)
    answer = await running.activation.RankItems(request)
    assert len(answer.items) == 1
    assert [(one.reason, one.count) for one in answer.dropped] == [("duplicate", 999)]


async def test_equal_scores_and_times_have_an_order_of_their_own(start: Start, world: World) -> None:
    """Which item came first in the request does not decide."""
    running = await start(world)
    history = [pb.Behavior(item_id=f"h{place}", event_time=Timestamp(seconds=1)) for place in range(500)]
    items = [f"x{place:03}" for place in range(100)]
    orders = set()
    for candidates in (items, items[::-1]):
        answer = await running.activation.RankItems(
            pb.RankItemsRequest(history=history, candidate_item_ids=candidates, limit=200)
        )
        orders.add(tuple(item.item_id for item in answer.items))
    assert orders == {tuple(items)}


async def test_a_replay_is_refused_unless_allowed(start: Start, world: World) -> None:
    request = pb.RankItemsRequest(user_id="u", now=Timestamp(seconds=int(NOW_S)))
    running = await start(world)
    error = await refusal(running, request)
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    assert details(error, error_details_pb2.ErrorInfo).reason == "REPLAY_NOT_ALLOWED"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.activation.GetUserState(pb.GetUserStateRequest(user_id="u", now=Timestamp(seconds=int(NOW_S))))
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("method", ["RankItems", "GetUserState"])
async def test_bytes_that_are_no_request_are_the_callers_fault(start: Start, world: World, method: str) -> None:
    running = await start(world)
    call: Any = running.channel.unary_unary(f"/longtail.activation.v1.ActivationService/{method}")
    for data in (b"\xff\xff\xff", b"\x0a\x02\xff\xfe"):  # no field; a string that is not UTF-8
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(data)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert details(refused.value, error_details_pb2.ErrorInfo).reason == "UNREADABLE_REQUEST"


async def test_without_a_free_permit_the_answer_is_no_at_once(start: Start, world: World) -> None:
    world.features.delay_s = 30
    running = await start(world, permits=1, queue=0, retry_after_ms=70)
    waiting = running.activation.RankItems(pb.RankItemsRequest(user_id="active"), timeout=60)
    await until(lambda: world.features.asked)
    error = await refusal(running, pb.RankItemsRequest(user_id="casual"))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 70
    assert world.features.asked == ["active"]
    waiting.cancel()


async def test_jobs_leave_permits_to_people(start: Start, world: World) -> None:
    world.features.delay_s = 30
    running = await start(world, permits=2, batch_permits=1, queue=0)
    job = pb.RankItemsRequest(user_id="job", priority=pb.PRIORITY_BATCH)
    calls = [running.activation.RankItems(job, timeout=60)]
    await until(lambda: len(world.features.asked) == 1)
    assert (await refusal(running, job)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    calls.append(running.activation.RankItems(pb.RankItemsRequest(user_id="person"), timeout=60))
    await until(lambda: len(world.features.asked) == 2)
    for call in calls:
        call.cancel()


async def test_the_callers_deadline_is_kept(start: Start, world: World) -> None:
    world.features.delay_s = 30
    running = await start(world)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await running.activation.RankItems(pb.RankItemsRequest(user_id="active"), timeout=0.0001)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_who_waits_for_a_permit_is_counted(start: Start, world: World) -> None:
    world.features.delay_s = 30
    running = await start(world, permits=1, queue=5, queue_ms=60_000)
    calls = [running.activation.RankItems(pb.RankItemsRequest(user_id="active"), timeout=60) for _ in range(3)]
    await until(lambda: running.metric("longtail_permits_waited_for", service="activation") == 2)
    assert running.metric("longtail_permits_taken", service="activation") == 1
    for call in calls:
        call.cancel()
    await until(lambda: running.metric("longtail_permits_waited_for", service="activation") == 0)
