"""Canary and shadow over the wire of TensorFlow Serving, and a version that is swapped under load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from feature_repo.layout import StateDir
from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.domain import UserId
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.scoring.rollout import falls_within
from serving.gateway.scoring.scorers import Scorers
from serving.gateway.settings import GatewaySettings, RolloutSettings
from tests.gateway.conftest import Running, Start, until
from tests.gateway.fakes import World
from tests.gateway.test_tfserving_scorer import publish
from tests.gateway.tiny_model_server import TinyModel, contract, serving

USERS = [f"user-{place}" for place in range(100, 140)]


class Stage:
    """A model server with versions 1 (stable), 2 (canary) and 3 (shadow), and a gateway before it."""

    def __init__(self, start: Start, world: World, directory: Path, stack: AsyncExitStack) -> None:
        self.model = TinyModel(version=3, labels={"stable": 1, "canary": 2, "shadow": 3}, skew={3: 0.01})
        self.telemetry = Telemetry()
        self._start, self._world, self._stack = start, world, stack
        self._state = StateDir(directory)
        for version in (1, 2, 3):
            publish(self._state.models, contract(version), version=version)

    async def open(self, **rollout: Any) -> Running:
        settings = GatewaySettings(
            model_server=await self._stack.enter_async_context(serving(self.model)),
            model_name="tiny",
            model_version_label="stable",
            rollout=RolloutSettings(**rollout),
        )
        scorers = Scorers(settings, self._state, self.telemetry)
        self._stack.push_async_callback(scorers.close)
        self._world.model = scorers.scorer  # type: ignore[assignment]
        return await self._start(self._world, telemetry=self.telemetry)


@pytest.fixture
async def stage(start: Start, world: World, tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(start, world, tmp_path, stack)


async def rank(running: Running, user: str, *, timeout_s: float = 5.0) -> pb.RankItemsResponse:
    request = pb.RankItemsRequest(user_id=user, candidate_item_ids=["i05", "i30"])
    answer = await running.activation.RankItems(request, timeout=timeout_s)
    assert not answer.degraded, answer.degraded_causes
    return answer


async def test_a_share_of_the_users_has_the_canarys_answers_and_always_the_same_users(stage: Stage) -> None:
    running = await stage.open(canary_label="canary", canary_share=0.5)
    answers = {user: (await rank(running, user)).model for user in USERS}
    assert {(model.label, model.version) for model in answers.values()} == {("stable", 1), ("canary", 2)}
    assert 10 <= sum(model.label == "canary" for model in answers.values()) <= 30
    assert {user: (await rank(running, user)).model for user in USERS} == answers
    counted = running.metric("longtail_scored_total", label="canary", version="2")
    assert counted == 2 * sum(model.label == "canary" for model in answers.values())


@pytest.mark.parametrize("fault", ["gone", "slow", "another contract"])
async def test_a_canary_that_fails_costs_nobody_an_answer(stage: Stage, fault: str) -> None:
    running = await stage.open(canary_label="canary", canary_share=1)
    if fault == "gone":
        del stage.model.labels["canary"]
    elif fault == "slow":
        stage.model.delays_s = {2: 30.0, 1: 0.0}
    else:
        stage.model.skew = {2: 7.0}
    answer = await rank(running, "active", timeout_s=1.5)
    assert (answer.model.label, answer.model.version) == ("stable", 1)
    cause = "timeout" if fault == "slow" else "bad_answer"
    assert running.metric("longtail_canary_failures_total", cause=cause) == 1


async def test_a_shadow_is_compared_and_never_seen(stage: Stage) -> None:
    running = await stage.open(shadow_label="shadow")
    for user in USERS[:3]:
        answer = await rank(running, user)
        assert (answer.model.label, answer.model.version) == ("stable", 1)
    await until(lambda: running.metric("longtail_shadows_total", outcome="compared") == 3)
    assert running.metric("longtail_shadow_score_difference_count") == 3
    assert running.metric("longtail_shadow_score_difference_sum") == pytest.approx(0.03, abs=1e-4)
    assert running.metric("longtail_shadow_top_overlap_sum") == 3


async def test_a_shadow_that_hangs_delays_and_degrades_nothing_and_is_asked_by_few_at_a_time(stage: Stage) -> None:
    running = await stage.open(shadow_label="shadow", shadow_calls=2)
    stage.model.delays_s = {3: 30.0}
    async with asyncio.timeout(10):
        await asyncio.gather(*(rank(running, user) for user in USERS))
    assert running.metric("longtail_shadows_total", outcome="left_out") == len(USERS) - 2
    assert sum(request.model_spec.version_label == "shadow" for request in stage.model.asked) <= 2


async def test_a_version_swapped_under_load_loses_no_request(stage: Stage) -> None:
    running = await stage.open()
    versions: list[int] = []
    swapped = asyncio.Event()

    async def load() -> None:
        while not swapped.is_set() or versions[-1] == 1:
            versions.append((await rank(running, "active")).model.version)

    callers = [asyncio.create_task(load()) for _ in range(8)]
    await until(lambda: len(versions) > 50)
    stage.model.labels["stable"] = 2
    swapped.set()
    await asyncio.gather(*callers)
    assert set(versions) == {1, 2}


def test_a_growing_share_keeps_its_users_and_the_anonymous_are_never_chosen() -> None:
    ids = [UserId(f"{place}") for place in range(2000)]
    small = {one for one in ids if falls_within(0.1, one, salt="canary")}
    large = {one for one in ids if falls_within(0.3, one, salt="canary")}
    assert small < large
    assert 150 < len(small) < 250
    assert all(falls_within(1, one, salt="canary") for one in ids)
    assert not any(falls_within(0, one, salt="canary") for one in ids)
    assert not falls_within(1, UserId(""), salt="canary")
    assert small != {one for one in ids if falls_within(0.1, one, salt="shadow")}


def test_one_label_cannot_be_both() -> None:
    with pytest.raises(ValidationError, match="the same"):
        RolloutSettings(canary_label="next", shadow_label="next")
