"""ExplainDecision: a decision found again, with its reasons, computed anew; and each way it cannot be."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from feature_repo.decisions.records import POLICIES
from feature_repo.decisions.segments import close_segments, erase_user
from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.decisions.decision_log import JsonlDecisionLog
from serving.gateway.decisions.explaining import DecisionArchive
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.policy.book import PolicyBook
from serving.gateway.settings import Sync
from tests.gateway.conftest import Running, Start
from tests.gateway.fakes import World
from tests.gateway.test_replay import open_log, opened_in


async def running(start: Start, world: World, directory: Path) -> Running:
    world.decisions = open_log(directory)  # type: ignore[assignment]
    policies = PolicyBook(archive=directory / POLICIES)
    return await start(world, policies=policies, explain=DecisionArchive(directory).explain)


async def explain(gateway: Running, decision_id: str) -> pb.ExplainDecisionResponse:
    response: pb.ExplainDecisionResponse = await gateway.activation.ExplainDecision(
        pb.ExplainDecisionRequest(decision_id=decision_id)
    )
    return response


@pytest.mark.parametrize("user", ["active", "casual", "dormant", "a stranger"])
@pytest.mark.parametrize("is_closed", [False, True])
async def test_a_decision_is_told_again_with_its_reasons(
    start: Start, world: World, tmp_path: Path, user: str, is_closed: bool
) -> None:
    gateway = await running(start, world, tmp_path)
    asked = pb.RankItemsRequest(user_id=user, limit=5, explain=True, surface="home")
    answer = await gateway.activation.RankItems(asked)
    if is_closed:
        world.decisions.close()  # type: ignore[attr-defined]
        close_segments(tmp_path)
    told = await explain(gateway, answer.decision_id)
    assert told.reproduced, told.differences
    assert (told.user_id, told.surface, told.limit) == (user, "home", 5)
    assert list(told.answer.items) == list(answer.items)
    assert told.answer.policy_version == answer.policy_version
    assert told.answer.user_state.state == answer.user_state.state
    assert [one.group for one in told.answer.feature_status] == [one.group for one in answer.feature_status]
    chosen = {item.item_id for item in answer.items}
    assert chosen <= {one.item_id for one in told.considered}
    assert len(told.considered) == len(chosen) + sum(
        one.count for one in answer.dropped if one.reason in ("below_floor", "below_limit")
    )


async def test_a_decision_is_told_before_its_line_is_written(start: Start, world: World, tmp_path: Path) -> None:
    log = JsonlDecisionLog(
        tmp_path, capacity=100, segment_bytes=1 << 20, sync=Sync.INTERVAL, telemetry=Telemetry(), write_s=0.3
    )
    world.decisions = log  # type: ignore[assignment]
    policies = PolicyBook(archive=tmp_path / POLICIES)
    gateway = await start(world, policies=policies, explain=DecisionArchive(tmp_path).explain)
    answer = await gateway.activation.RankItems(pb.RankItemsRequest(user_id="casual", limit=3, explain=True))
    assert not opened_in(tmp_path)
    told = await explain(gateway, answer.decision_id)
    assert list(told.answer.items) == list(answer.items)
    log.close()


async def test_it_says_when_it_cannot_be_computed_again(start: Start, world: World, tmp_path: Path) -> None:
    gateway = await running(start, world, tmp_path)
    answer = await gateway.activation.RankItems(pb.RankItemsRequest(user_id="casual", limit=3))
    for path in (tmp_path / POLICIES).iterdir():
        path.unlink()
    told = await explain(gateway, answer.decision_id)
    assert not told.reproduced
    assert "is not kept" in told.differences[0]
    assert [item.item_id for item in told.answer.items] == [item.item_id for item in answer.items]
    assert not any(item.reasons for item in told.answer.items)


@pytest.mark.parametrize(
    ("decision_id", "code", "said"),
    [
        ("none", grpc.StatusCode.NOT_FOUND, "is the id right"),
        ("", grpc.StatusCode.INVALID_ARGUMENT, "1 to 128 bytes, has 0"),
        ("x" * 129, grpc.StatusCode.INVALID_ARGUMENT, "has 129"),
    ],
)
async def test_an_id_that_names_nothing(
    start: Start, world: World, tmp_path: Path, decision_id: str, code: grpc.StatusCode, said: str
) -> None:
    gateway = await running(start, world, tmp_path)
    with pytest.raises(grpc.aio.AioRpcError, match=said) as failed:
        await explain(gateway, decision_id)
    assert failed.value.code() is code


async def test_decisions_of_an_erased_user_and_of_another_version(start: Start, world: World, tmp_path: Path) -> None:
    gateway = await running(start, world, tmp_path)
    answer = await gateway.activation.RankItems(pb.RankItemsRequest(user_id="casual", limit=3))
    world.decisions.close()  # type: ignore[attr-defined]
    (path,) = opened_in(tmp_path)
    kept = path.read_bytes()
    path.write_bytes(kept.replace(b'"v":2', b'"v":9'))
    with pytest.raises(grpc.aio.AioRpcError, match="schema version 9") as failed:
        await explain(gateway, answer.decision_id)
    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    path.write_bytes(kept)
    erase_user(tmp_path, "casual")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await explain(gateway, answer.decision_id)
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_gateway_without_a_log_knows_no_decision(start: Start, world: World) -> None:
    gateway = await start(world)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await explain(gateway, "d")
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND
