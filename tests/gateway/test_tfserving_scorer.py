"""The model over TensorFlow Serving's wire, and every way in which it may fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.domain import ItemId, ModelUser
from serving.gateway.errors import Cause, ModelError
from serving.gateway.scoring import tensors
from serving.gateway.scoring.model_contract import Contracts
from serving.gateway.scoring.tfserving_scorer import TensorFlowServing
from tests.gateway.conftest import Start
from tests.gateway.fakes import World
from tests.gateway.test_failure_policy import causes
from tests.gateway.test_rank_items import shown
from tests.gateway.tiny_model_server import EMBEDDING, TinyModel, contract, serving, signatures

USER = ModelUser(
    history_item_ids=("x1", "предмет"),
    history_event_types=("click", "view"),
    history_age_s=np.array([60.0, 120.0], np.float32),
    user_features=np.array([1, 2, 3, 4, 5, 6, 7, np.nan], np.float32),
    user_weights=np.array([0.5] * (EMBEDDING + 1), np.float32),
    user_weights_version=1,
)
ITEMS = [ItemId("x25"), ItemId("x75"), ItemId("neu")]
TIMEOUT_S = 10.0


def publish(models: Path, content: dict[str, Any], *, version: int = 1) -> Path:
    path = models / str(version) / "assets.extra" / "contract.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


class Bench:
    """A tiny model that is served, and the scorer that asks it."""

    def __init__(self, stack: AsyncExitStack, models: Path) -> None:
        self.stack = stack
        self.models = models
        self.model = TinyModel()
        self.address = ""

    async def scorer(self, *, label: str = "", published: dict[str, Any] | None = None) -> TensorFlowServing:
        publish(self.models, published or contract())
        self.address = self.address or await self.stack.enter_async_context(serving(self.model))
        contracts = Contracts(path=None, models=self.models)
        scorer = TensorFlowServing(self.address, model_name="tiny", label=label, contracts=contracts)
        self.stack.push_async_callback(scorer.close)
        return scorer


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        yield Bench(stack, tmp_path / "models")


def shape_of(request: Any, name: str) -> list[int]:
    return [dim.size for dim in request.inputs[name].tensor_shape.dim]


async def failure(scorer: TensorFlowServing, *, timeout_s: float = TIMEOUT_S) -> ModelError:
    with pytest.raises(ModelError) as failed:
        await scorer.score(USER, ITEMS, timeout_s=timeout_s)
    return failed.value


async def test_each_candidate_has_its_score_and_the_version_is_told(bench: Bench) -> None:
    scorer = await bench.scorer()
    scores = await scorer.score(USER, ITEMS, timeout_s=TIMEOUT_S)
    assert scores.values.tolist() == pytest.approx([0.25, 0.75, 0.0])
    assert (scores.model.name, scores.model.version, scores.model.label) == ("tiny", 1, "")


async def test_inputs_are_padded_as_the_contract_says(bench: Bench) -> None:
    scorer = await bench.scorer()
    await scorer.score(USER, ITEMS, timeout_s=TIMEOUT_S)
    inputs = bench.model.asked[-1].inputs
    items = [one.decode() for one in inputs["history_item_ids"].string_val]
    assert items == ["x1", "предмет", *[""] * 48]
    assert [one.decode() for one in inputs["candidate_item_ids"].string_val] == ["x25", "x75", "neu", ""]
    ages = tensors.TensorProto()
    ages.CopyFrom(inputs["history_age_s"])
    assert tensors.to_floats(ages, (1, 50))[0, :3].tolist() == [60, 120, 0]
    features = np.frombuffer(inputs["user_features"].tensor_content, "<f4")
    assert features[:7].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert np.isnan(features[7])
    assert np.frombuffer(inputs["user_weights_version"].tensor_content, "<i8").tolist() == [1]


async def test_weights_of_another_size_than_the_models_are_none(bench: Bench) -> None:
    scorer = await bench.scorer(published=contract(embedding_size=9))
    bench.model.signatures = signatures()
    await scorer.score(USER, ITEMS, timeout_s=TIMEOUT_S)
    inputs = bench.model.asked[-1].inputs
    assert np.frombuffer(inputs["user_weights"].tensor_content, "<f4").tolist() == [0.0] * 10
    assert np.frombuffer(inputs["user_weights_version"].tensor_content, "<i8").tolist() == [0]


async def test_more_candidates_than_the_largest_bucket_go_in_several_rows(bench: Bench) -> None:
    scorer = await bench.scorer()
    items = [ItemId(f"x{place}") for place in range(50)]
    scores = await scorer.score(USER, items, timeout_s=TIMEOUT_S)
    assert scores.values.tolist() == pytest.approx([place / 100 for place in range(50)])
    assert [shape_of(request, "candidate_item_ids") for request in bench.model.asked] == [[4, 16]]


async def test_users_who_wait_together_share_a_call_and_get_their_own_scores(bench: Bench) -> None:
    scorer = await bench.scorer()
    asked: list[list[ItemId]] = [[ItemId(f"x{user}{place}") for place in range(2)] for user in range(1, 8)]
    found = await asyncio.gather(*(scorer.score(USER, items, timeout_s=TIMEOUT_S) for items in asked))
    for items, scores in zip(asked, found, strict=True):
        assert scores.values.tolist() == pytest.approx([int(item[1:]) / 100 for item in items])
    assert sum(shape_of(request, "candidate_item_ids")[0] for request in bench.model.asked) == 7
    assert len(bench.model.asked) < 7


async def test_one_users_bad_scores_do_not_degrade_another(bench: Bench) -> None:
    def spoil(response: Any) -> None:
        response.outputs["scores"].float_val[1] = np.nan

    scorer = await bench.scorer()
    await scorer.score(USER, ITEMS, timeout_s=TIMEOUT_S)
    bench.model.spoil = spoil
    first, second = await asyncio.gather(
        scorer.score(USER, ITEMS, timeout_s=TIMEOUT_S),
        scorer.score(USER, ITEMS, timeout_s=TIMEOUT_S),
        return_exceptions=True,
    )
    assert isinstance(first, ModelError)
    assert first.cause is Cause.BAD_ANSWER
    assert not isinstance(second, BaseException)


async def test_retrieved_items_come_without_padding(bench: Bench) -> None:
    scorer = await bench.scorer()
    assert await scorer.retrieve(USER, timeout_s=TIMEOUT_S) == ("x90", "x50")


async def test_a_label_is_asked_for_and_told(bench: Bench) -> None:
    scorer = await bench.scorer(label="stable")
    scores = await scorer.score(USER, ITEMS, timeout_s=TIMEOUT_S)
    assert bench.model.asked[-1].model_spec.version_label == "stable"
    assert scores.model.label == "stable"


def _nan(response: Any) -> None:
    response.outputs["scores"].float_val[1] = float("nan")


def _wrong_shape(response: Any) -> None:
    response.outputs["scores"].tensor_shape.dim[1].size = 3


def _too_few(response: Any) -> None:
    del response.outputs["scores"].float_val[-1]


def _wrong_type(response: Any) -> None:
    response.outputs["scores"].dtype = tensors.DT_STRING


def _too_large(response: Any) -> None:
    response.outputs["scores"].float_val[0] = 1.5


def _gone(response: Any) -> None:
    response.outputs.clear()


@pytest.mark.parametrize("spoil", [_nan, _wrong_shape, _too_few, _wrong_type, _too_large, _gone])
async def test_a_bad_answer_is_a_failure(bench: Bench, spoil: Callable[[Any], None]) -> None:
    scorer = await bench.scorer()
    bench.model.spoil = spoil
    error = await failure(scorer)
    assert error.cause is Cause.BAD_ANSWER
    assert "scores" in error.detail


async def test_a_slow_model_is_a_timeout(bench: Bench) -> None:
    scorer = await bench.scorer()
    bench.model.delay_s = 30
    assert (await failure(scorer, timeout_s=0.2)).cause is Cause.TIMEOUT


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (grpc.StatusCode.UNAVAILABLE, Cause.UNAVAILABLE),
        (grpc.StatusCode.NOT_FOUND, Cause.UNAVAILABLE),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Cause.UNAVAILABLE),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Cause.TIMEOUT),
        (grpc.StatusCode.INVALID_ARGUMENT, Cause.BAD_ANSWER),
        (grpc.StatusCode.FAILED_PRECONDITION, Cause.BAD_ANSWER),
        (grpc.StatusCode.INTERNAL, Cause.BAD_ANSWER),
    ],
)
async def test_a_refusal_has_its_cause(bench: Bench, code: grpc.StatusCode, cause: Cause) -> None:
    scorer = await bench.scorer()
    await scorer.verify(timeout_s=TIMEOUT_S)
    bench.model.refuse = (code, "told so")
    error = await failure(scorer)
    assert error.cause is cause
    assert "told so" in error.detail


async def test_a_model_that_comes_back_is_used_again(bench: Bench) -> None:
    async with AsyncExitStack() as first:
        bench.address = await first.enter_async_context(serving(bench.model))
        scorer = await bench.scorer()
        await scorer.score(USER, ITEMS, timeout_s=TIMEOUT_S)
    assert (await failure(scorer)).cause is Cause.UNAVAILABLE
    async with serving(bench.model, address=bench.address):
        for _ in range(100):
            try:
                scores = await scorer.score(USER, ITEMS, timeout_s=TIMEOUT_S)
                break
            except ModelError:
                await asyncio.sleep(0.05)
        assert scores.model.version == 1


async def test_without_a_published_contract_no_score_is_used(bench: Bench) -> None:
    scorer = await bench.scorer()
    publish(bench.models, {}, version=1).unlink()
    error = await failure(scorer)
    assert error.cause is Cause.UNAVAILABLE
    assert "longtail publish" in error.detail


async def test_a_model_of_another_contract_is_named_and_not_used(bench: Bench) -> None:
    scorer = await bench.scorer()
    bench.model.signatures["serving_default"]["inputs"]["user_features"] = {"dtype": "DT_FLOAT", "shape": [-1, 99]}
    with pytest.raises(ModelError) as failed:
        await scorer.verify(timeout_s=TIMEOUT_S)
    assert failed.value.cause is Cause.CONTRACT_MISMATCH
    assert (
        "serving_default input 'user_features' is DT_FLOAT[-1, 8] in the contract, DT_FLOAT[-1, 99] as served"
        in failed.value.detail
    )
    assert (await failure(scorer)).cause is Cause.CONTRACT_MISMATCH
    bench.model.signatures = signatures()
    assert (await scorer.score(USER, ITEMS, timeout_s=TIMEOUT_S)).model.version == 1


async def test_a_new_version_is_checked_when_its_first_answer_comes(bench: Bench) -> None:
    scorer = await bench.scorer()
    await scorer.score(USER, ITEMS, timeout_s=TIMEOUT_S)
    publish(bench.models, contract(2), version=2)
    bench.model.version = 2
    assert (await scorer.score(USER, ITEMS, timeout_s=TIMEOUT_S)).model.version == 2
    publish(bench.models, contract(3), version=3)
    bench.model.version = 3
    del bench.model.signatures["serving_default"]["inputs"]["history_age_s"]
    error = await failure(scorer)
    assert error.cause is Cause.CONTRACT_MISMATCH
    assert "version 3" in error.detail
    assert "'history_age_s'" in error.detail


async def test_rankings_go_on_by_the_prior_while_the_model_mismatches(start: Start, world: World, bench: Bench) -> None:
    scorer = await bench.scorer()
    world.model = scorer  # type: ignore[assignment]
    running = await start(world)
    request = pb.RankItemsRequest(user_id="casual", candidate_item_ids=["i30", "i05"])
    answer = await running.activation.RankItems(request)
    assert shown(answer) == ["i30", "i05"]
    assert answer.model.name == "tiny"
    bench.model.version = 4
    bench.model.signatures = {}
    answer = await running.activation.RankItems(request)
    assert causes(answer) == [("model", "contract_mismatch")]
    assert shown(answer) == ["i05", "i30"]
    assert not answer.HasField("model")
