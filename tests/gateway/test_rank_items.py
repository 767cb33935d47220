from __future__ import annotations

from longtail.activation.v1 import activation_pb2 as pb
from tests.gateway.conftest import Start
from tests.gateway.fakes import World


async def test_the_callers_candidates_are_ranked(start: Start, world: World) -> None:
    world.model.scores = {"i10": 0.9, "i11": 0.1}
    running = await start(world)
    answer = await running.activation.RankItems(
        pb.RankItemsRequest(user_id="casual", candidate_item_ids=["i11", "i10"], limit=5)
    )
    assert [item.item_id for item in answer.items] == ["i10", "i11"]
