"""ForgetUser: who may, what is answered, and that the gateway's own memory forgets too."""

from __future__ import annotations

from datetime import datetime

import grpc
import pytest

from feature_repo.log.pseudonyms import Pseudonyms
from feature_repo.privacy.erasure import ErasureError, Proof, Removal
from longtail.activation.v1 import feedback_pb2, privacy_pb2_grpc
from longtail.activation.v1 import privacy_pb2 as pb
from longtail.activation.v1.activation_pb2 import FeatureStatus, RankItemsRequest
from serving.gateway.errors import Cause, FeaturesError
from serving.gateway.wire.hiding import hiding
from tests.gateway.conftest import Running, Start
from tests.gateway.fakes import World


class Erasing:
    """Remembers whom it erased."""

    def __init__(self) -> None:
        self.users: list[str] = []

    def __call__(self, user_id: str, now: datetime) -> Proof:
        self.users.append(user_id)
        if user_id == "stuck":
            raise ErasureError("online store: away. run it again")
        removed = (Removal(holder="tables", part="events/shop.parquet", count=3),)
        return Proof(
            user="digest",
            at=now.isoformat(),
            removed=removed,
            verified={"tables": True},
            kept=("backups",),
            file="p.json",
        )


async def forget(running: Running, user_id: str) -> pb.ForgetUserResponse:
    stub = privacy_pb2_grpc.PrivacyServiceStub(running.channel)
    response: pb.ForgetUserResponse = await stub.ForgetUser(pb.ForgetUserRequest(user_id=user_id))
    return response


async def test_a_user_is_forgotten_also_by_the_gateways_memory(start: Start, world: World) -> None:
    erasing = Erasing()
    running = await start(world, erase=erasing, allow_forget_user=True)
    asked = RankItemsRequest(user_id="dormant", candidate_item_ids=["i10"])
    await running.activation.RankItems(asked)
    response = await forget(running, "dormant")
    assert erasing.users == ["dormant"]
    world.features.error = FeaturesError(Cause.UNAVAILABLE, "down")
    answer = await running.activation.RankItems(asked)
    assert {each.status for each in answer.feature_status} == {FeatureStatus.STATUS_DEFAULTED}
    assert [(each.holder, each.part, each.count) for each in response.removals] == [
        ("tables", "events/shop.parquet", 3)
    ]
    assert (response.user_digest, list(response.kept), response.report) == ("digest", ["backups"], "p.json")
    assert response.erase_time.seconds > 0


@pytest.mark.parametrize(
    ("user_id", "allowed", "code"),
    [
        ("u", False, grpc.StatusCode.PERMISSION_DENIED),
        ("", True, grpc.StatusCode.INVALID_ARGUMENT),
        ("u" * 257, True, grpc.StatusCode.INVALID_ARGUMENT),
        ("stuck", True, grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_otherwise_it_is_refused(
    start: Start, world: World, user_id: str, allowed: bool, code: grpc.StatusCode
) -> None:
    running = await start(world, erase=Erasing(), allow_forget_user=allowed)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await forget(running, user_id)
    assert refused.value.code() == code


async def test_with_a_key_nobody_behind_the_border_sees_the_id(start: Start, world: World) -> None:
    pseudonyms, erasing = Pseudonyms(b"0123456789abcdef"), Erasing()
    running = await start(world, erase=erasing, hide=hiding(pseudonyms), allow_forget_user=True)
    hidden = pseudonyms.of("alice")
    await running.activation.RankItems(RankItemsRequest(user_id="alice", candidate_item_ids=["i10"]))
    assert world.features.asked == [hidden]
    event = feedback_pb2.Event(event_id="e1", user_id="alice", item_id="i10", event_type="view")
    await running.feedback.RecordEvents(feedback_pb2.RecordEventsRequest(events=[event]))
    assert world.events.events["e1"].user_id == hidden
    await forget(running, "alice")
    assert erasing.users == [hidden]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.activation.RankItems(RankItemsRequest(user_id="u" * 257))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
