"""What callers get when a dependency does not answer."""

from __future__ import annotations

import grpc
import pytest

from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.domain import Query, Ranking
from serving.gateway.errors import Cause, DecisionLogError, FeaturesError, ModelError
from tests.gateway.conftest import Start, until
from tests.gateway.fakes import MemoryCatalog, MemoryDecisions, World, item_table
from tests.gateway.test_rank_items import shown, statuses

DOWN = FeaturesError(Cause.UNAVAILABLE, "connection refused")


def causes(answer: pb.RankItemsResponse | pb.GetUserStateResponse) -> list[tuple[str, str]]:
    return [(one.dependency, one.cause) for one in answer.degraded_causes]


async def test_without_features_a_user_is_ranked_with_defaults_and_flagged(start: Start, world: World) -> None:
    world.features.error = DOWN
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="active"))
    assert causes(answer) == [("features", "unavailable")]
    assert answer.degraded
    assert set(statuses(answer).values()) == {"STATUS_DEFAULTED"}
    assert len(answer.items) == 10
    assert running.metric("longtail_degraded_total", dependency="features", cause="unavailable") == 1


async def test_without_features_a_user_read_before_is_remembered(start: Start, world: World) -> None:
    running = await start(world)
    await running.activation.RankItems(pb.RankItemsRequest(user_id="active"))
    world.features.error = DOWN
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="active"))
    assert causes(answer) == [("features", "unavailable")]
    assert answer.user_state.state == pb.LIFECYCLE_ACTIVE
    assert statuses(answer)["user_activity"] == "STATUS_STALE"
    assert statuses(answer)["user_weights"] == "STATUS_MISSING"


async def test_late_features_count_as_failed_and_leave_time_for_the_rest(start: Start, world: World) -> None:
    world.features.delay_s = 30
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="active"), timeout=2)
    assert causes(answer) == [("features", "timeout")]
    assert answer.HasField("model")


async def test_without_the_model_the_prior_orders_and_no_score_is_told(start: Start, world: World) -> None:
    world.model.error = ModelError(Cause.TIMEOUT, "late")
    running = await start(world)
    request = pb.RankItemsRequest(user_id="dormant", candidate_item_ids=["i30", "i05", "i20"], explain=True)
    answer = await running.activation.RankItems(request)
    assert causes(answer) == [("model", "timeout")]
    assert shown(answer) == ["i05", "i20", "i30"]  # the most popular first
    assert [item.score for item in answer.items] == [0, 0, 0]
    assert not answer.HasField("model")
    assert "item statistics" in answer.items[0].reasons[0].text


async def test_the_prior_is_that_of_the_state(start: Start, world: World) -> None:
    """Active users know the popular items: theirs are the fresh ones."""
    world.model.error = ModelError(Cause.UNAVAILABLE, "down")
    running = await start(world)
    request = pb.RankItemsRequest(user_id="active", candidate_item_ids=["i30", "i05", "i20"])
    assert shown(await running.activation.RankItems(request)) == ["i30", "i20", "i05"]


async def test_when_retrieval_fails_the_states_list_stands_in(start: Start, world: World) -> None:
    world.model.retrieve_error = ModelError(Cause.BAD_ANSWER, "no such signature")
    running = await start(world)
    request = pb.RankItemsRequest(user_id="casual", sources=[pb.CANDIDATE_SOURCE_RETRIEVAL])
    answer = await running.activation.RankItems(request)
    assert causes(answer) == [("candidates", "bad_answer")]
    assert {item.source for item in answer.items} == {"fallback"}
    assert "i00" in shown(answer)
    assert answer.HasField("model")


async def test_with_everything_down_there_is_still_an_answer(start: Start, world: World) -> None:
    world.features.error = DOWN
    world.model.error = ModelError(Cause.UNAVAILABLE, "down")
    world.decisions.error = DecisionLogError(Cause.QUEUE_FULL, "full")
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="casual"))
    assert [dependency for dependency, _ in causes(answer)] == ["features", "candidates", "model", "decision_log"]
    assert len(answer.items) == 10


async def test_nothing_random_is_shown_when_its_propensity_cannot_be_recorded(start: Start, world: World) -> None:
    running = await start(world)
    request = pb.RankItemsRequest(user_id="nobody", candidate_item_ids=[f"i{place:02}" for place in range(40)])
    answer = await running.activation.RankItems(request)
    assert min(item.propensity for item in answer.items) < 1
    world.decisions.error = DecisionLogError(Cause.DISK, "no space left")
    answer = await running.activation.RankItems(request)
    assert causes(answer) == [("decision_log", "disk")]
    assert {item.propensity for item in answer.items} == {1}
    assert not any(item.is_exploration for item in answer.items)


async def test_a_line_that_comes_too_late_is_followed_by_what_was_answered(start: Start, world: World) -> None:
    class Late(MemoryDecisions):
        async def record(self, query: Query, ranking: Ranking, *, timeout_s: float) -> None:
            self.recorded.append((query, ranking))
            if ranking.is_randomized:
                raise DecisionLogError(Cause.TIMEOUT, "late")

    world.decisions = Late()
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="nobody"))
    assert causes(answer) == [("decision_log", "timeout")]
    drawn, answered = [ranking for _, ranking in world.decisions.recorded]
    assert drawn.decision_id == answered.decision_id == answer.decision_id
    assert [item.item_id for item in answered.items] == shown(answer)
    assert {item.propensity for item in answered.items} == {1.0}


@pytest.mark.parametrize("broken", ["features", "candidates", "model", "decision_log"])
async def test_a_caller_who_wants_all_or_nothing_is_refused(start: Start, world: World, broken: str) -> None:
    if broken == "features":
        world.features.error = DOWN
    elif broken == "candidates":
        world.model.retrieve_error = ModelError(Cause.UNAVAILABLE, "down")
    elif broken == "model":
        world.model.error = ModelError(Cause.UNAVAILABLE, "down")
    else:
        world.decisions.error = DecisionLogError(Cause.DISK, "no space left")
    candidates = [] if broken == "candidates" else ["i10", "i11"]
    running = await start(world)
    request = pb.RankItemsRequest(user_id="casual", require_full=True, candidate_item_ids=candidates)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.activation.RankItems(request)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert broken in (refused.value.details() or "")


async def test_require_full_does_not_mind_a_user_without_rows(start: Start, world: World) -> None:
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="nobody", require_full=True))
    assert not answer.degraded


async def test_the_state_without_features_is_flagged(start: Start, world: World) -> None:
    world.features.error = DOWN
    running = await start(world)
    answer = await running.activation.GetUserState(pb.GetUserStateRequest(user_id="active"))
    assert answer.degraded
    assert causes(answer) == [("features", "unavailable")]
    assert answer.user_state.state == pb.LIFECYCLE_NEW


async def test_a_call_that_its_caller_cancels_stops(start: Start, world: World) -> None:
    world.features.delay_s = 30
    running = await start(world, default_deadline_ms=60_000, max_deadline_ms=60_000)
    call = running.activation.RankItems(pb.RankItemsRequest(user_id="active"))
    await until(lambda: world.features.asked)
    call.cancel()
    await until(lambda: world.features.cancelled)
    await until(lambda: not running.metric("longtail_permits_taken", service="activation"))
    assert running.metric("longtail_requests_total", method="RankItems", code="CANCELLED") == 1


async def test_an_empty_catalogue_gives_an_empty_answer(start: Start, world: World) -> None:
    world.catalog = MemoryCatalog(item_table(0))
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="casual"))
    assert not answer.items
    assert not answer.degraded
