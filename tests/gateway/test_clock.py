"""The machine's clock jumps while calls go on: nothing is wrong, unflagged, late or lost."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import feedback_pb2
from serving.gateway.access.caller import Rate, Scope
from serving.gateway.access.gate import Call, Gate
from serving.gateway.access.quota import Quotas
from serving.gateway.access.settings import AuthorizationSettings
from serving.gateway.access.tokens import entry_text, new_token
from tests.gateway.conftest import Start
from tests.gateway.fakes import DAY_S, NOW_S, World
from tests.gateway.test_access import bearer
from tests.gateway.test_rank_items import shown

JUMPS = {"an hour back": -3600.0, "an hour ahead": 3600.0, "to 1970": -NOW_S, "ten years ahead": 3650 * DAY_S}


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("jump", JUMPS)
async def test_calls_go_on_over_a_jump_and_answer_as_before_once_it_is_mended(
    start: Start, world: World, jump: str
) -> None:
    clock = Clock()
    running = await start(world, clock=clock)
    jumped = asyncio.Event()

    async def ask(user: str) -> list[pb.RankItemsResponse]:
        answers = []
        for _ in range(10):
            answers.append(await running.activation.RankItems(pb.RankItemsRequest(user_id=user), timeout=10))
            await jumped.wait()
        return answers

    before = await running.activation.RankItems(pb.RankItemsRequest(user_id="casual"))
    asking = [asyncio.create_task(ask(user)) for user in ("active", "casual", "dormant", "nobody")]
    await asyncio.sleep(0.01)
    clock.now_s += JUMPS[jump]
    jumped.set()
    answers = [answer for answers in await asyncio.gather(*asking) for answer in answers]
    assert len(answers) == 40
    for answer in answers:
        assert not answer.degraded
        assert answer.items
        assert all(group.age.ToSeconds() >= 0 for group in answer.feature_status)
        assert answer.user_state.days_in_state >= 0
        assert all(0 < item.propensity <= 1 for item in answer.items)
    clock.now_s = NOW_S
    after = await running.activation.RankItems(pb.RankItemsRequest(user_id="casual"))
    assert shown(after) == shown(before)
    assert after.user_state == before.user_state


@pytest.mark.parametrize("jump", JUMPS)
async def test_events_of_callers_whose_clock_is_right_are_taken_or_refused_with_the_reason(
    start: Start, world: World, jump: str
) -> None:
    clock = Clock()
    running = await start(world, clock=clock)
    clock.now_s += JUMPS[jump]
    event = feedback_pb2.Event(event_id="e", user_id="u", item_id="i", event_type="click")
    event.event_time.FromSeconds(int(NOW_S))
    (ack,) = (await running.feedback.RecordEvents(feedback_pb2.RecordEventsRequest(events=[event]))).acks
    if jump == "to 1970":
        assert ack.status == feedback_pb2.EventAck.STATUS_REJECTED
        assert "future" in ack.error or "after" in ack.error
        assert not world.events.events
    else:
        assert ack.status == feedback_pb2.EventAck.STATUS_ACCEPTED
        assert world.events.events["e"].event_time.timestamp() == NOW_S


def test_a_token_ends_by_the_clock_and_holds_again_once_it_is_mended(tmp_path_factory: pytest.TempPathFactory) -> None:
    clock, token = Clock(), new_token()
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    ends = datetime.fromtimestamp(NOW_S + DAY_S, UTC)
    path.write_text(entry_text(token, caller="shop", scopes=frozenset({Scope.RANK}), expires=ends))
    gate = Gate(authorization=AuthorizationSettings(tokens_file=path), clock=clock)
    call = Call(method="RankItems", metadata=bearer(token), peer="")
    gate.admit(call)
    clock.now_s += 2 * DAY_S
    with pytest.raises(Exception, match="expired at"):
        gate.admit(call)
    clock.now_s = NOW_S
    gate.admit(call)


async def test_a_jump_gives_and_takes_no_quota(start: Start, world: World) -> None:
    clock = Clock()
    gate = Gate(quotas=Quotas(Rate(requests_per_s=0.001, burst=3)), clock=clock)
    running = await start(world, clock=clock, gate=gate)
    for jump in (0.0, 3650 * DAY_S, -NOW_S):
        clock.now_s = NOW_S + jump
        await running.activation.RankItems(pb.RankItemsRequest(user_id="active"))
    with pytest.raises(Exception, match="may make"):
        await running.activation.RankItems(pb.RankItemsRequest(user_id="active"))
