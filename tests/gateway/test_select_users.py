"""SelectUsers: whom, on which channel, under which budget; broken off, gone on with, and repeated."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.decisions.campaigns import Campaigns
from feature_repo.layout import StateDir
from feature_repo.privacy.erasers import known_holders
from feature_repo.settings import FeatureSettings
from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import activation_pb2_grpc
from serving import client
from serving.gateway.campaigns.audience import ParquetAudience
from serving.gateway.domain import Row
from serving.gateway.errors import Cause, FeaturesError, ModelError
from serving.gateway.policy.book import PolicyBook
from tests.gateway.conftest import Running, Start, until
from tests.gateway.fakes import DAY_S, NOW_S, World, activity_row

USERS = 40
NOON_S = NOW_S - NOW_S % DAY_S + 12 * 3600
NIGHT_S = NOON_S + 11 * 3600
OPEN = """
[holdout]
rate = 0.0
[contacts]
assumed_effect = 0.1
[contacts.caps]
contacts_1d = 1
contacts_7d = 2
contacts_30d = 3
spacing_h = 24.0
[channels.push]
cost = 1.0
quiet_from_h = 21
quiet_until_h = 8
[channels.push.caps]
contacts_1d = 1
contacts_7d = 2
contacts_30d = 3
spacing_h = 24.0
[channels.email]
cost = 0.25
response = 0.5
quiet_from_h = 20
quiet_until_h = 9
[channels.email.caps]
contacts_1d = 1
contacts_7d = 2
contacts_30d = 3
spacing_h = 24.0
"""


@dataclass(kw_only=True)
class Desk:
    """A gateway with 40 dormant users; user n comes back by itself the less, the higher n is."""

    world: World
    state: StateDir
    policies: PolicyBook
    start: Start
    now_s: float = NOON_S

    async def open(self) -> Running:
        return await self.start(
            self.world,
            policies=self.policies,
            campaigns=Campaigns(self.state.campaigns),
            audience=ParquetAudience(self.state.features),
            clock=lambda: self.now_s,
        )


def name(number: int) -> str:
    return f"user-{number:02}"


@pytest.fixture
def desk(start: Start, world: World, tmp_path: Path) -> Desk:
    state = StateDir(tmp_path)
    state.features.mkdir()
    policy = tmp_path / "policy.toml"
    policy.write_text(OPEN)
    for number in range(USERS):
        world.features.rows[name(number)] = {"user_activity": activity_row(first_days=400, last_days=95, visits_28d=0)}
    write_tables(state)
    return Desk(world=world, state=state, policies=PolicyBook(policy), start=start)


def write_tables(state: StateDir, **returns: Any) -> None:
    users = [name(number) for number in range(USERS)]
    activity = {
        "user_id": users,
        "state": ["dormant"] * USERS,
        "last_seen_unix_s": pa.array([int(NOON_S - 95 * DAY_S)] * USERS, pa.int64()),
        "tail_percentile": [number / USERS for number in range(USERS)],
        "p_alive": [0.5] * USERS,
        "expected_events_30d": [1.0] * USERS,
    }
    pq.write_table(pa.table(activity), state.features / "user_activity.parquet")
    columns = {
        "user_id": users,
        "p_return": np.linspace(0.9, 0.1, USERS).astype(np.float32),
        "p_return_contacted": pa.array([None] * USERS, pa.float32()),
        "horizon_days": np.full(USERS, 7, np.float32),
    }
    pq.write_table(pa.table(columns | returns), state.features / "user_returns.parquet")


async def select(running: Running, **fields: Any) -> list[pb.UserDecision]:
    given = {"campaign_id": "spring", "segment": pb.Segment(), "holdout_rate": 0.0, **fields}
    return [one async for one in running.activation.SelectUsers(pb.SelectUsersRequest(**given))]


async def refused(running: Running, **fields: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await select(running, **fields)
    return failed.value


async def test_the_budget_goes_to_those_whose_return_it_raises_most(desk: Desk) -> None:
    running = await desk.open()
    chosen = await select(running, max_contacts=5)
    assert [one.user_id for one in chosen] == [name(number) for number in (39, 38, 37, 36, 35)]
    for one in chosen:
        assert (one.answer.decision, one.channel, one.cost, one.basis) == (pb.DECISION_SHOW, "push", 1.0, "assumed")
        assert one.answer.items
    assert chosen[0].expected_effect == pytest.approx(0.1 * 0.5 * (1 - 0.1), rel=1e-6)


async def test_a_measured_effect_comes_before_an_assumed_one_and_harm_is_left_alone(desk: Desk) -> None:
    contacted: list[float | None] = [None] * USERS
    contacted[3], contacted[39] = 0.99, 0.05
    write_tables(desk.state, p_return_contacted=pa.array(contacted, pa.float32()))
    running = await desk.open()
    chosen = await select(running, max_contacts=USERS)
    assert (chosen[0].user_id, chosen[0].basis) == (name(3), "uplift_model")
    assert name(39) not in {one.user_id for one in chosen}
    assert len(chosen) == USERS - 1


async def test_money_buys_the_channel_that_gives_most_for_it(desk: Desk) -> None:
    running = await desk.open()
    chosen = await select(running, max_cost=2.0)
    assert {one.channel for one in chosen} == {"email"}
    assert sum(one.cost for one in chosen) == pytest.approx(2.0)
    pushed = await select(running, campaign_id="other", max_cost=2.9, channels=["push"])
    shown = [one for one in pushed if one.answer.decision == pb.DECISION_SHOW]
    assert len(shown) == 2
    assert not {one.user_id for one in shown} & {one.user_id for one in chosen}, "spacing holds over campaigns"
    assert {one.answer.decision_reason for one in pushed if one not in shown} == {"all_channels_spacing"}


async def test_a_channel_that_is_closed_leaves_the_other(desk: Desk) -> None:
    desk.world.features.rows[name(39)]["user_contacts"] = Row(
        values={"opted_out_channels": ["push"]}, event_unix_s=NOON_S
    )
    desk.world.features.rows[name(38)]["user_contacts"] = Row(values={"opted_out_channels": [""]}, event_unix_s=NOON_S)
    running = await desk.open()
    first, second, third = await select(running, max_contacts=2)
    assert (first.user_id, first.channel) == (name(39), "email")
    assert (second.answer.decision, second.answer.decision_reason) == (pb.DECISION_SUPPRESSED, "opted_out")
    assert not second.answer.items and second.cost == 0
    assert (third.user_id, third.channel) == (name(37), "push")


async def test_the_same_again_is_the_same_and_other_parameters_are_refused(desk: Desk) -> None:
    running = await desk.open()
    first = await select(running, max_contacts=3, holdout_rate=0.5)
    contacts = len(desk.world.model.users)
    assert await select(running, max_contacts=3, holdout_rate=0.5) == first
    assert len(desk.world.model.users) == contacts, "nothing is ranked anew"
    error = await refused(running, max_contacts=4, holdout_rate=0.5)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "max_contacts was 3, is 4" in (error.details() or "")


async def test_a_campaign_on_all_channels_is_the_same_when_the_policy_has_others(desk: Desk, tmp_path: Path) -> None:
    running = await desk.open()
    first = await select(running, max_contacts=5)
    (tmp_path / "policy.toml").write_text(OPEN.replace("channels.email", "channels.sms"))
    assert desk.policies.reload()
    assert await select(running, max_contacts=5) == first
    named = await refused(running, max_contacts=5, channels=["push"])
    assert "channels was unset, is push" in (named.details() or "")


async def test_rankings_of_a_campaign_are_in_the_metrics(desk: Desk) -> None:
    desk.world.model.error = ModelError(Cause.UNAVAILABLE, "it is gone")
    running = await desk.open()
    await select(running, max_contacts=3)
    assert running.metric("longtail_degraded_total", dependency="model", cause="unavailable") == 3
    assert running.metric("longtail_stage_seconds_count", stage="total", state="dormant") == 3


async def test_what_was_broken_off_goes_on_and_chooses_nobody_twice(desk: Desk) -> None:
    running = await desk.open()
    healthy = desk.world.features.read
    asked = 0

    async def failing(user_id: Any, *, timeout_s: float) -> Any:
        nonlocal asked
        asked += 1
        if asked > 70:
            raise FeaturesError(Cause.UNAVAILABLE, "down")
        return await healthy(user_id, timeout_s=timeout_s)

    many = [*(name(number) for number in range(USERS)), *(f"stranger-{number}" for number in range(60))]
    desk.world.features.read = failing  # type: ignore[method-assign]
    request = {"segment": None, "user_ids": many, "max_contacts": 90}
    told: list[pb.UserDecision] = []
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        given = pb.SelectUsersRequest(campaign_id="spring", holdout_rate=0.0, user_ids=many, max_contacts=90)
        async for one in running.activation.SelectUsers(given):
            told.append(one)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    desk.world.features.read = healthy  # type: ignore[method-assign]
    again = await select(running, **request)
    assert again[: len(told)] == told
    chosen = Counter(one.user_id for one in again)
    assert len(again) == 90
    assert max(chosen.values()) == 1


async def test_a_caller_who_leaves_while_an_answer_waits_to_be_taken_has_cancelled(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    running = await desk.open()
    campaign = pb.SelectUsersRequest(campaign_id="left", segment=pb.Segment(), max_contacts=USERS)
    async for _ in running.activation.SelectUsers(campaign):
        pass
    window = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{running.gateway.port}", options=window) as narrow:
        call = activation_pb2_grpc.ActivationServiceStub(narrow).SelectUsers(campaign)
        await call.read()
        call.cancel()
        await until(lambda: running.metric("longtail_requests_total", method="SelectUsers", code="CANCELLED"))
    assert not [line for line in caplog.records if line.levelno >= logging.ERROR]
    assert [one async for one in running.activation.SelectUsers(campaign)]


async def test_the_held_out_take_the_place_of_contacts(desk: Desk) -> None:
    running = await desk.open()
    half = await select(running, max_contacts=30, holdout_rate=0.5)
    kinds = Counter((one.answer.decision, one.answer.decision_reason) for one in half)
    assert kinds.total() == 30
    assert 5 <= kinds[pb.DECISION_HOLD_OUT, "campaign_holdout"] <= 25
    everybody = await select(running, campaign_id="all out", max_contacts=4, holdout_rate=1.0)
    assert {one.answer.decision for one in everybody[-4:]} <= {pb.DECISION_HOLD_OUT, pb.DECISION_SUPPRESSED}


async def test_whom_the_permanent_holdout_keeps_meets_the_caps_of_those_who_are_contacted(
    desk: Desk, tmp_path: Path
) -> None:
    (tmp_path / "policy.toml").write_text(OPEN.replace("rate = 0.0", "rate = 0.0\nalways = ['user-39']", 1))
    desk.policies = PolicyBook(tmp_path / "policy.toml")
    running = await desk.open()

    async def reasons(campaign_id: str, holdout_rate: float) -> dict[str, str]:
        asked = pb.SelectUsersRequest(
            campaign_id=campaign_id, holdout_rate=holdout_rate, segment=pb.Segment(), max_contacts=5
        )
        return {one.user_id: one.answer.decision_reason async for one in running.activation.SelectUsers(asked)}

    assert (await reasons("would not have", 1.0))[name(39)] == "global_holdout"
    first = await reasons("first", 0.0)
    assert (first[name(39)], first[name(38)]) == ("global_holdout", "")
    second = await reasons("second", 0.0)
    assert second[name(39)] == second[name(38)] != "global_holdout"


async def test_who_came_back_since_the_build_is_left_alone(desk: Desk) -> None:
    desk.world.features.rows[name(39)] = {"user_activity": activity_row(first_days=400, last_days=0.1, visits_28d=9)}
    running = await desk.open()
    first, second = await select(running, max_contacts=1, segment=pb.Segment(states=[pb.LIFECYCLE_DORMANT]))
    assert (first.answer.decision, first.answer.decision_reason) == (pb.DECISION_SUPPRESSED, "left_segment")
    assert second.user_id == name(38)


async def test_a_segment_is_cut_by_what_the_build_knows(desk: Desk) -> None:
    running = await desk.open()
    tail = await select(running, max_contacts=USERS, segment=pb.Segment(min_tail_percentile=0.75))
    assert {one.user_id for one in tail} == {name(number) for number in range(30, USERS)}
    nobody = await select(running, campaign_id="b", max_contacts=5, segment=pb.Segment(max_days_away=10))
    assert nobody == []
    active = pb.Segment(states=[pb.LIFECYCLE_ACTIVE])
    assert await select(running, campaign_id="c", max_contacts=5, segment=active) == []


async def test_in_the_night_nobody_is_chosen_and_nothing_is_spent(desk: Desk) -> None:
    desk.now_s = NIGHT_S
    running = await desk.open()
    error = await refused(running, max_contacts=3)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "quiet hours on every channel" in (error.details() or "")
    desk.now_s = NIGHT_S + 14 * 3600
    assert len(await select(running, max_contacts=3)) == 3


async def test_a_user_who_is_erased_is_in_no_campaign(desk: Desk) -> None:
    running = await desk.open()
    chosen = await select(running, max_contacts=3)
    holders = {holder.name: holder for holder in known_holders(desk.state, FeatureSettings())}
    assert holders["campaigns"].erase(chosen[0].user_id) == {"decided": 1}
    assert await select(running, max_contacts=3) == chosen[1:]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_contacts": 0}, "max_contacts: is 0; 1 or more"),
        ({"max_contacts": -1}, "is -1"),
        ({"max_cost": 0.0}, "max_cost: is 0"),
        ({"max_cost": float("nan")}, "max_cost: is nan"),
        ({"max_cost": 0.2}, "max_cost: is 0.2; a contact on the cheapest channel costs 0.25"),
        ({"max_cost": 0.3, "channels": ["push"]}, "a contact on the cheapest channel costs 1"),
        ({}, "there is no budget"),
        ({"max_contacts": 1, "campaign_id": ""}, "campaign_id: has 0 bytes"),
        ({"max_contacts": 1, "campaign_id": "spring\nsale"}, "campaign_id: is 'spring\\nsale'; give one line"),
        ({"max_contacts": 1, "channels": ["pigeon"]}, "'pigeon' is no channel of the policy; there are email, push"),
        ({"max_contacts": 1, "holdout_rate": 1.5}, "holdout_rate: is 1.5"),
        ({"max_contacts": 1, "limit": 0}, "limit: is 0"),
        ({"max_contacts": 1, "user_ids": ["u"]}, "either user_ids or segment"),
        ({"max_contacts": 1, "segment": None, "user_ids": ["u", ""]}, "user_ids[1]"),
        ({"max_contacts": 1, "segment": None}, "either user_ids or segment"),
        ({"max_contacts": 1, "segment": pb.Segment(states=[99])}, "segment.states[0]: is 99"),  # type: ignore[list-item]
        ({"max_contacts": 1, "segment": pb.Segment(min_days_away=9, max_days_away=3)}, "nobody is in between"),
    ],
)
async def test_what_cannot_be_asked(desk: Desk, fields: dict[str, Any], said: str) -> None:
    error = await refused(await desk.open(), **fields)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in (error.details() or "")


async def test_without_a_build_it_says_what_to_run(desk: Desk) -> None:
    (desk.state.features / "user_activity.parquet").unlink()
    error = await refused(await desk.open(), max_contacts=1)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "longtail features build" in (error.details() or "")


async def test_the_command_line_tells_a_gateway_that_cannot_from_one_that_is_gone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RESUME_S", 0.0)
    (desk.state.features / "user_activity.parquet").unlink()
    running = await desk.open()
    request = pb.SelectUsersRequest(campaign_id="spring", segment=pb.Segment(), max_contacts=3)
    with client.Client(f"127.0.0.1:{running.gateway.port}") as ours:
        with pytest.raises(client.ClientError, match="answered UNAVAILABLE: the built features cannot be read"):
            await asyncio.to_thread(list, ours.select(request))
        await running.gateway.drain()
        with pytest.raises(client.ClientError, match="no gateway answers"):
            await asyncio.to_thread(list, ours.select(request))


async def test_two_campaigns_at_once_contact_nobody_twice(desk: Desk) -> None:
    """Through two gateways, as two workers are: a cap of one a day counts what the other has just chosen."""
    one, other = await desk.open(), await desk.open()
    answers = await asyncio.gather(
        *(
            select(running, campaign_id=campaign, max_contacts=USERS)
            for running, campaign in ((one, "spring"), (one, "sale"), (other, "news"))
        )
    )
    contacted = Counter(
        found.user_id for told in answers for found in told if found.answer.decision == pb.DECISION_SHOW
    )
    assert len(contacted) == USERS
    assert max(contacted.values()) == 1


async def test_two_calls_for_one_campaign_do_not_choose_at_once(desk: Desk) -> None:
    running = await desk.open()
    with Campaigns(desk.state.campaigns).alone("spring"):
        error = await refused(running, max_contacts=1)
    assert error.code() is grpc.StatusCode.ABORTED
    assert len(await select(running, max_contacts=1)) == 1
