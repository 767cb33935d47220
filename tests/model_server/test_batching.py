"""Micro-batching never changes an answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.model_server import tensors
from serving.model_server.batching import BatchingOptions, MicroBatcher, run_together
from serving.model_server.errors import ServingError, invalid_argument
from serving.model_server.lifecycle import State, Version
from serving.model_server.tensors import Array
from tests.model_server.fakes import FakeServable, call_of, signature, slot

REQUESTS = st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=0, max_size=5), max_size=12)


def version_of(servable: FakeServable) -> Version:
    return Version(1, Path("1"), State.AVAILABLE, servable=servable)


@contextlib.asynccontextmanager
async def batching(options: BatchingOptions) -> AsyncIterator[MicroBatcher]:
    with ThreadPoolExecutor(options.workers) as executor:
        batcher = MicroBatcher(options, executor)
        task = asyncio.create_task(batcher.work())
        try:
            yield batcher
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def run_all(servable: FakeServable, requests: list[Any], **options: Any) -> list[Any]:
    version = version_of(servable)
    async with batching(BatchingOptions(**options)) as batcher:
        calls = [batcher.run(version, call_of(servable, values)) for values in requests]
        return await asyncio.gather(*calls, return_exceptions=True)


@given(requests=REQUESTS, max_size=st.integers(1, 8), workers=st.integers(1, 3))
def test_answers_are_those_of_requests_run_alone(requests: list[list[float]], max_size: int, workers: int) -> None:
    answers = asyncio.run(run_all(FakeServable(), requests, max_size=max_size, workers=workers))
    assert len(answers) == len(requests)
    for values, answer in zip(requests, answers, strict=True):
        np.testing.assert_allclose(answer["y"], np.array(values, np.float32) / 2 + 2, rtol=1e-6)


@given(requests=REQUESTS, max_size=st.integers(1, 8))
def test_no_run_is_larger_than_allowed_unless_one_request_is(requests: list[list[float]], max_size: int) -> None:
    servable = FakeServable()
    asyncio.run(run_all(servable, requests, max_size=max_size))
    largest = max((len(values) for values in requests), default=0)
    assert max(servable.runs, default=0) <= max(max_size, largest)
    assert sum(servable.runs) == sum(len(values) for values in requests)


async def test_requests_that_wait_together_run_together() -> None:
    servable = FakeServable()
    await run_all(servable, [[1.0], [2.0, 3.0], [4.0]], max_size=32)
    assert servable.runs == [4]


async def test_a_size_of_one_turns_it_off() -> None:
    servable = FakeServable()
    await run_all(servable, [[1.0], [2.0], [3.0]], max_size=1)
    assert servable.runs == [1, 1, 1]


async def test_other_inner_shapes_run_apart() -> None:
    servable = FakeServable(its=signature(inputs=(slot("x", shape=(-1, -1)),), outputs=(slot("y", shape=(-1, -1)),)))
    answers = await run_all(servable, [[[1.0, 2.0]], [[3.0]], [[5.0, 6.0]]], max_size=32)
    assert [answer["y"].shape for answer in answers] == [(1, 2), (1, 1), (1, 2)]
    assert sorted(servable.runs) == [1, 2]


@pytest.mark.parametrize("shape", [(), (3,), None])
async def test_a_signature_without_rows_is_never_batched(shape: tuple[int, ...] | None) -> None:
    servable = FakeServable(its=signature(inputs=(slot("x", shape=shape),)))
    await run_all(servable, [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], max_size=32)
    assert servable.runs == [3, 3]


def refuse_negative(x: Array) -> Array:
    if (x < 0).any():
        raise invalid_argument("negative")
    return tensors.decode(tensors.encode(x / 2 + 2))


async def test_one_bad_request_fails_alone() -> None:
    answers = await run_all(FakeServable(refuse_negative), [[1.0], [-1.0], [3.0]], max_size=32)
    assert answers[0]["y"].tolist() == [2.5]
    assert isinstance(answers[1], ServingError)
    assert answers[2]["y"].tolist() == [3.5]


def test_outputs_that_are_not_rows_are_computed_alone() -> None:
    servable = FakeServable(lambda x: x.mean(keepdims=True))
    answers = run_together(servable, [call_of(servable, [2.0]), call_of(servable, [4.0, 6.0])])
    assert [answer["y"].tolist() for answer in answers if isinstance(answer, dict)] == [[2.0], [5.0]]


async def test_a_full_queue_is_unavailable() -> None:
    servable = FakeServable()
    servable.may_run.clear()
    version = version_of(servable)
    async with batching(BatchingOptions(max_size=1, max_queue=2)) as batcher:
        calls = [asyncio.create_task(batcher.run(version, call_of(servable, [1.0])))]
        await asyncio.to_thread(servable.has_started.wait, 20)
        calls += [asyncio.create_task(batcher.run(version, call_of(servable, [1.0]))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ServingError, match=r"queue .* is full; 2 requests wait") as caught:
            await batcher.run(version, call_of(servable, [1.0]))
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        servable.may_run.set()
        assert len(await asyncio.gather(*calls)) == 3


async def test_a_request_whose_caller_gave_up_is_dropped_and_makes_room() -> None:
    servable = FakeServable()
    servable.may_run.clear()
    version = version_of(servable)
    async with batching(BatchingOptions(max_size=1, max_queue=1)) as batcher:
        first = asyncio.create_task(batcher.run(version, call_of(servable, [1.0])))
        await asyncio.to_thread(servable.has_started.wait, 20)
        given_up = asyncio.create_task(batcher.run(version, call_of(servable, [2.0])))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        last = asyncio.create_task(batcher.run(version, call_of(servable, [3.0, 4.0])))
        servable.may_run.set()
        await asyncio.gather(first, last)
    assert servable.runs == [1, 2]
    assert version.in_use == 0


async def test_waiting_for_company_ends() -> None:
    servable = FakeServable()
    answers = await run_all(servable, [[1.0]], wait_s=0.01)
    assert answers[0]["y"].tolist() == [2.5]
