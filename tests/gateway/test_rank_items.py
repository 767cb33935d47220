"""RankItems over the wire, everything behind it well."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from longtail.activation.v1 import activation_pb2 as pb
from tests.gateway.conftest import Start
from tests.gateway.fakes import DAY_S, NOW_S, MemoryCatalog, World, behavior_row, item_table


def shown(answer: pb.RankItemsResponse) -> list[str]:
    return [item.item_id for item in answer.items]


def dropped(answer: pb.RankItemsResponse) -> dict[str, int]:
    return {one.reason: one.count for one in answer.dropped}


def statuses(answer: pb.RankItemsResponse) -> dict[str, str]:
    return {one.group: pb.FeatureStatus.Status.Name(one.status) for one in answer.feature_status}


def at(unix_s: float) -> Timestamp:
    return Timestamp(seconds=int(unix_s))


def behaviors(*item_ids: str, days_ago: float = 1.0) -> Iterable[pb.Behavior]:
    return [
        pb.Behavior(item_id=item_id, event_type="click", event_time=at(NOW_S - days_ago * DAY_S - place))
        for place, item_id in enumerate(item_ids)
    ]


async def test_the_callers_candidates_are_ordered_by_the_models_scores(start: Start, world: World) -> None:
    world.model.scores = {"i10": 0.9, "i11": 0.1, "i12": 0.5}
    running = await start(world)
    request = pb.RankItemsRequest(user_id="casual", candidate_item_ids=["i11", "i10", "i12"])
    answer = await running.activation.RankItems(request)
    assert shown(answer) == ["i10", "i12", "i11"]
    assert [item.rank for item in answer.items] == [1, 2, 3]
    assert {item.source for item in answer.items} == {"caller"}
    assert answer.decision == pb.DECISION_SHOW
    assert answer.model == pb.ModelVersion(name="fake", version=7)
    assert not answer.degraded


async def test_an_unknown_user_is_new_and_ranked_with_defaults(start: Start, world: World) -> None:
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="nobody"))
    assert answer.user_state.state == pb.LIFECYCLE_NEW
    assert answer.user_state.tail_percentile == 1
    assert answer.user_state.history_length == 0
    assert not answer.user_state.HasField("last_seen")
    assert not answer.user_state.HasField("p_alive")
    assert set(statuses(answer).values()) == {"STATUS_MISSING"}
    assert len(answer.items) == 10
    assert not answer.degraded


async def test_states_follow_the_users_rows(start: Start, world: World) -> None:
    running = await start(world)
    states = {}
    for user_id in ("active", "casual", "dormant"):
        answer = await running.activation.RankItems(pb.RankItemsRequest(user_id=user_id))
        states[user_id] = pb.Lifecycle.Name(answer.user_state.state)
    assert states == {
        "active": "LIFECYCLE_ACTIVE",
        "casual": "LIFECYCLE_CASUAL",
        "dormant": "LIFECYCLE_DORMANT",
    }


async def test_a_dormant_user_whose_click_is_known_is_resurrected(start: Start, world: World) -> None:
    """The activity row is of the last build; the streamed behaviour is newer."""
    world.features.rows["dormant"]["user_behavior"] = behavior_row("i05", at_unix_s=NOW_S - 60)
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="dormant"))
    assert answer.user_state.state == pb.LIFECYCLE_RESURRECTED
    assert answer.user_state.last_seen == at(NOW_S - 60)


async def test_a_row_older_than_its_view_allows_is_stale_and_still_used(start: Start, world: World) -> None:
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="dormant"))
    assert statuses(answer)["user_behavior"] == "STATUS_STALE"
    assert statuses(answer)["user_activity"] == "STATUS_FRESH"
    assert statuses(answer)["user_weights"] == "STATUS_MISSING"
    age = next(one.age for one in answer.feature_status if one.group == "user_behavior")
    assert age.ToSeconds() == 80 * DAY_S
    assert answer.user_state.history_length == 1


async def test_every_candidate_is_ranked_or_counted_with_its_reason(start: Start, world: World) -> None:
    world.catalog = MemoryCatalog(item_table(withdrawn=["i20"]))
    running = await start(world)
    answer = await running.activation.RankItems(
        pb.RankItemsRequest(
            user_id="active",  # who has seen i00 and i01
            candidate_item_ids=["i00", "i10", "i10", "i20", "i21", "i22", "never heard of", "i23"],
            exclude_item_ids=["i21"],
            limit=2,
        )
    )
    assert dropped(answer) == {"seen": 1, "duplicate": 1, "withdrawn": 1, "excluded": 1, "below_limit": 2}
    assert len(answer.items) + sum(dropped(answer).values()) == 8


async def test_an_unknown_item_is_ranked_as_a_cold_one(start: Start, world: World) -> None:
    world.model.scores = {"no such item": 0.9}
    running = await start(world)
    request = pb.RankItemsRequest(user_id="casual", candidate_item_ids=["i10", "no such item"], explain=True)
    answer = await running.activation.RankItems(request)
    assert shown(answer) == ["no such item", "i10"]
    assert answer.items[0].reasons[1].term_value == 1  # nothing is rarer


async def test_without_candidates_every_source_names_some(start: Start, world: World) -> None:
    world.model.scores = {"i30": 0.99}
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="casual", limit=200))
    sources = {item.item_id: item.source for item in answer.items}
    assert sources["i30"] == "retrieval"
    assert sources["i00"] == "popular"
    assert sources["i39"] == "fresh"


async def test_named_sources_are_the_only_ones_asked(start: Start, world: World) -> None:
    running = await start(world)
    request = pb.RankItemsRequest(user_id="casual", sources=[pb.CANDIDATE_SOURCE_FRESH])
    answer = await running.activation.RankItems(request)
    assert {item.source for item in answer.items} == {"fresh"}


async def test_an_inline_history_stands_for_the_stored_one(start: Start, world: World) -> None:
    running = await start(world)
    request = pb.RankItemsRequest(user_id="active", history=behaviors("i10"), candidate_item_ids=["i00", "i10", "i11"])
    answer = await running.activation.RankItems(request)
    assert set(shown(answer)) == {"i00", "i11"}
    assert world.model.users[-1].history_item_ids == ("i10",)


async def test_an_anonymous_user_is_ranked_by_the_history_given_and_nothing_is_read(start: Start, world: World) -> None:
    running = await start(world)
    request = pb.RankItemsRequest(history=behaviors("i10", "i11"), candidate_item_ids=["i10", "i12"])
    answer = await running.activation.RankItems(request)
    assert shown(answer) == ["i12"]
    assert not answer.feature_status
    assert world.features.asked == []


async def test_the_newest_fifty_behaviours_count_in_any_order(start: Start, world: World) -> None:
    running = await start(world)
    history = [
        pb.Behavior(item_id=f"h{minutes:03}", event_time=at(NOW_S - 60 * minutes)) for minutes in (*range(99, -1, -1),)
    ]
    await running.activation.RankItems(pb.RankItemsRequest(history=history, candidate_item_ids=["i10"]))
    user = world.model.users[-1]
    assert user.history_item_ids == tuple(f"h{minutes:03}" for minutes in range(50))
    assert set(user.history_event_types) == {"view"}
    assert user.history_age_s.tolist() == [60.0 * minutes for minutes in range(50)]


async def test_what_the_model_is_told_of_a_user_without_rows_is_missing(start: Start, world: World) -> None:
    running = await start(world)
    await running.activation.RankItems(pb.RankItemsRequest(user_id="nobody", candidate_item_ids=["i10"]))
    user = world.model.users[-1]
    assert user.history_item_ids == ()
    assert all(feature != feature for feature in user.user_features.tolist())
    assert user.user_weights.size == 0


async def test_a_retry_with_its_key_gets_the_same_answer_and_decision(start: Start, world: World) -> None:
    running = await start(world)
    request = pb.RankItemsRequest(user_id="casual", idempotency_key="mail 7")
    first = await running.activation.RankItems(request)
    second = await running.activation.RankItems(request)
    assert first.decision_id == second.decision_id
    assert first.items == second.items
    request.user_id = "active"
    assert (await running.activation.RankItems(request)).decision_id != first.decision_id


async def test_decisions_without_a_key_are_told_apart(start: Start, world: World) -> None:
    running = await start(world)
    request = pb.RankItemsRequest(user_id="casual")
    answers = [await running.activation.RankItems(request) for _ in range(3)]
    assert len({answer.decision_id for answer in answers}) == 3


async def test_the_decision_is_recorded_with_what_was_shown(start: Start, world: World) -> None:
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="casual", surface="home"))
    ((query, ranking),) = world.decisions.recorded
    assert ranking.decision_id == answer.decision_id
    assert [item.item_id for item in ranking.items] == shown(answer)
    assert [item.propensity for item in ranking.items] == [item.propensity for item in answer.items]
    assert query.surface == "home"


async def test_a_replay_answers_for_its_moment(start: Start, world: World) -> None:
    running = await start(world, allow_replay=True)
    request = pb.RankItemsRequest(user_id="casual", now=at(NOW_S - 6 * DAY_S), candidate_item_ids=["i02"])
    answer = await running.activation.RankItems(request)
    assert shown(answer) == ["i02"]  # seen five days ago: not yet
    assert answer.user_state.history_length == 0


async def test_an_objective_that_is_named_beats_the_states_own(start: Start, world: World) -> None:
    """A rare item wins the last place when activating, the better-scored popular one when retaining."""
    world.catalog = MemoryCatalog(item_table(5))  # i04 is rarer than i02
    world.model.scores = {"i00": 0.80, "i01": 0.70, "i02": 0.50, "i04": 0.49}
    running = await start(world)
    request = pb.RankItemsRequest(user_id="dormant", candidate_item_ids=["i00", "i01", "i02", "i04"], limit=3)
    last = []
    for objective in (pb.OBJECTIVE_ACTIVATE, pb.OBJECTIVE_RETAIN):
        request.objective = objective
        last.append(shown(await running.activation.RankItems(request))[-1])
    assert last == ["i04", "i02"]


async def test_stages_are_timed(start: Start, world: World) -> None:
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="casual"))
    timings = {one.stage: one.duration_us for one in answer.timings}
    assert list(timings) == ["features", "candidates", "score", "policy", "decision_log", "total"]
    assert timings["total"] >= sum(us for stage, us in timings.items() if stage != "total")


async def test_the_state_alone_can_be_asked_for(start: Start, world: World) -> None:
    running = await start(world)
    answer = await running.activation.GetUserState(pb.GetUserStateRequest(user_id="active"))
    assert answer.user_state.state == pb.LIFECYCLE_ACTIVE
    assert [behavior.item_id for behavior in answer.history] == ["i00", "i01"]
    assert answer.history[0].event_time == at(NOW_S - DAY_S)
    assert not answer.degraded
    assert world.model.users == []


async def test_what_was_answered_is_counted(start: Start, world: World) -> None:
    running = await start(world)
    await running.activation.RankItems(pb.RankItemsRequest(user_id="active", candidate_item_ids=["i00", "i10"]))
    assert running.metric("longtail_requests_total", method="RankItems", code="OK") == 1
    assert running.metric("longtail_candidates_dropped_total", reason="seen") == 1
    assert running.metric("longtail_stage_seconds_count", stage="score", state="active") == 1
    assert running.metric("longtail_feature_reads_total", group="user_weights", status="missing") == 1
    assert running.metric("longtail_feature_age_seconds_count", group="user_behavior") == 1
    assert running.metric("longtail_permits_taken", service="activation") == 0
