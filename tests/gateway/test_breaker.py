"""When a dependency is asked no more, and when it is again."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.breaker import Breaker, GuardedFeatures, GuardedScorer
from serving.gateway.domain import ItemId, UserId
from serving.gateway.errors import Cause, FeaturesError, ModelError
from tests.gateway.conftest import Start
from tests.gateway.fakes import MemoryFeatures, MemoryModel, World
from tests.gateway.test_failure_policy import causes
from tests.gateway.test_rank_items import shown
from tests.gateway.test_tfserving_scorer import USER


class Guarded:
    """A reader behind a breaker of 3 failures and a second, with a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.store = MemoryFeatures()
        self.reader = GuardedFeatures(self.store, Breaker(failures=3, open_s=1.0, clock=lambda: self.now_s))

    async def read(self, *, timeout_s: float = 1.0) -> Cause | None:
        try:
            await self.reader.read(UserId("u"), timeout_s=timeout_s)
        except FeaturesError as error:
            return error.cause
        return None

    async def fail(self, times: int, cause: Cause = Cause.UNAVAILABLE) -> list[Cause | None]:
        self.store.error = FeaturesError(cause, "down")
        return [await self.read() for _ in range(times)]


async def test_it_opens_after_failures_in_a_row_and_asks_no_more() -> None:
    guarded = Guarded()
    assert await guarded.fail(5) == [*[Cause.UNAVAILABLE] * 3, *[Cause.CIRCUIT_OPEN] * 2]
    assert len(guarded.store.asked) == 3


async def test_failures_with_answers_between_do_not_open_it() -> None:
    guarded = Guarded()
    for _ in range(4):
        await guarded.fail(2)
        guarded.store.error = None
        assert await guarded.read() is None


async def test_after_a_while_one_call_tries_and_its_answer_closes_it() -> None:
    guarded = Guarded()
    await guarded.fail(3)
    guarded.now_s, guarded.store.error, guarded.store.delay_s = 1.1, None, 0.01
    found = await asyncio.gather(*(guarded.read() for _ in range(3)))
    assert found == [None, Cause.CIRCUIT_OPEN, Cause.CIRCUIT_OPEN]
    assert await guarded.read() is None


async def test_while_it_keeps_failing_it_is_tried_less_often_but_every_two_seconds_at_least() -> None:
    guarded = Guarded()
    await guarded.fail(3)
    tries = []
    for tenth in range(100):
        guarded.now_s = 0.1 * tenth
        if await guarded.read() is not Cause.CIRCUIT_OPEN:
            tries.append(guarded.now_s)
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert gaps[0] > 1.5
    assert max(gaps) <= 2.2


async def test_a_caller_in_a_hurry_does_not_open_it_for_others() -> None:
    guarded = Guarded()
    guarded.store.delay_s = 1.0
    assert [await guarded.read(timeout_s=0.001) for _ in range(9)] == [Cause.TIMEOUT] * 9


async def test_a_bad_answer_is_an_answer() -> None:
    assert await Guarded().fail(9, Cause.BAD_ANSWER) == [Cause.BAD_ANSWER] * 9


async def test_a_try_that_is_cancelled_lets_the_next_one_try() -> None:
    guarded = Guarded()
    await guarded.fail(3)
    guarded.now_s, guarded.store.error, guarded.store.delay_s = 1.1, None, 30.0
    trying = asyncio.create_task(guarded.read())
    await asyncio.sleep(0.01)
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)
    guarded.store.delay_s = 0.0
    assert await guarded.read() is None


async def test_ranking_and_retrieval_share_it() -> None:
    model = MemoryModel()
    scorer = GuardedScorer(model, Breaker(failures=1, open_s=60.0))
    model.error = ModelError(Cause.TIMEOUT, "late")
    with pytest.raises(ModelError):
        await scorer.retrieve(USER, timeout_s=1.0)
    model.error = None
    with pytest.raises(ModelError) as refused:
        await scorer.score(USER, [ItemId("i")], timeout_s=1.0)
    assert refused.value.cause is Cause.CIRCUIT_OPEN


async def test_an_open_circuit_degrades_and_says_so(start: Start) -> None:
    class Behind(World):
        def ports(self):  # type: ignore[no-untyped-def]
            ports = super().ports()
            object.__setattr__(ports, "scorer", GuardedScorer(self.model, Breaker(failures=1, open_s=60.0)))
            return ports

    world = Behind()
    world.model.error = ModelError(Cause.UNAVAILABLE, "down")
    running = await start(world)
    request = pb.RankItemsRequest(user_id="casual", candidate_item_ids=["i30", "i10", "i20"])
    await running.activation.RankItems(request)
    answer = await running.activation.RankItems(request)
    assert causes(answer) == [("model", "circuit_open")]
    assert shown(answer) == ["i10", "i20", "i30"]
    assert not answer.HasField("model")
