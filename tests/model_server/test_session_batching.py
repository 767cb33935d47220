"""`--enable_batching`: what it joins, what it refuses and how it fails, as in TensorFlow Serving."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import text_format

from serving.model_server import deadlines, session_batching, text_config
from serving.model_server.errors import ServingError, StartError, invalid_argument
from serving.model_server.lifecycle import State, Version
from serving.model_server.session_batching import SessionBatcher, SessionBatchingOptions
from serving.model_server.signatures import Call
from serving.model_server.tensors import Array
from tests.model_server.conftest import error_of, predict_request, serving
from tests.model_server.fakes import FakeServable, call_of, signature, slot, until

TWO_INPUTS = signature(inputs=(slot("x"), slot("z")))


@contextlib.asynccontextmanager
async def batching(servable: FakeServable, **options: Any) -> AsyncIterator[Callable[..., asyncio.Task[Any]]]:
    """Sends calls to a batcher; each becomes a task whose result is y or the error."""
    with ThreadPoolExecutor(1) as executor:
        batcher = SessionBatcher(SessionBatchingOptions(workers=1, **options), executor)
        version = Version(1, Path("1"), state=State.AVAILABLE, servable=servable)
        work = asyncio.create_task(batcher.work())

        async def ask(call: Call, left_s: float | None) -> Any:
            deadlines.set_time_left(left_s)
            try:
                return (await batcher.run(version, call))["y"].tolist()
            except ServingError as error:
                return error.code, error.message

        yield lambda call, left_s=None: asyncio.create_task(ask(call, left_s))
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def answers(servable: FakeServable, values: Sequence[Any], **options: Any) -> list[Any]:
    """The answers to calls that wait while the worker is busy with another."""
    servable.may_run.clear()
    async with batching(servable, **options) as ask:
        first = ask(call_of(servable, [0.0]))
        await asyncio.to_thread(servable.has_started.wait, 20)
        tasks = [ask(value if isinstance(value, Call) else call_of(servable, value)) for value in values]
        await asyncio.sleep(0.01)
        servable.may_run.set()
        await first
        return [await task for task in tasks]


async def test_waiting_requests_share_a_run_up_to_the_maximum() -> None:
    servable = FakeServable()
    assert await answers(servable, [[1.0], [2.0, 3.0], [4.0]], max_size=3, max_run_size=3) == [[2.5], [3.0, 3.5], [4.0]]
    assert servable.runs == [1, 3, 1]


async def test_one_bad_row_fails_its_whole_batch() -> None:
    def refuse_negative(x: Array) -> Array:
        if (x < 0).any():
            raise invalid_argument("negative")
        return x

    said = (grpc.StatusCode.INVALID_ARGUMENT, "negative")
    assert await answers(FakeServable(refuse_negative), [[1.0], [-1.0], [3.0]]) == [said] * 3


async def test_other_inner_shapes_fail_together() -> None:
    servable = FakeServable(its=signature(inputs=(slot("x", shape=(-1, -1)),)))
    code, text = (await answers(servable, [[[1.0, 2.0]], [[3.0]]]))[0]
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert text.startswith(
        "Tensors with name 'x:0' from different tasks have different shapes and padding is turned off."
    )


async def test_padding_repeats_the_first_element() -> None:
    servable = FakeServable(lambda x: x, its=signature(inputs=(slot("x", shape=(-1, -1)),)))
    assert await answers(servable, [[[1.0, 2.0]], [[3.0]]], pads_inputs=True) == [[[1.0, 2.0]], [[3.0, 3.0]]]


async def test_a_batch_is_filled_up_to_an_allowed_size() -> None:
    servable = FakeServable()
    sizes = {"allowed_sizes": (4, 8), "max_size": 8, "max_run_size": 8}
    assert await answers(servable, [[1.0], [2.0]], **sizes) == [[2.5], [3.0]]
    assert servable.runs == [4, 4]


@pytest.mark.parametrize(
    ("inputs", "code", "text"),
    [
        ({"x": [1.0] * 9}, grpc.StatusCode.INVALID_ARGUMENT, "Task size 9 is larger than maximum input batch size 8"),
        ({"x": 1.0}, grpc.StatusCode.INVALID_ARGUMENT, "Batching Run() input tensors must have at least one dimension"),
        (
            {"x": [1.0], "z": [1.0, 2.0]},
            grpc.StatusCode.INVALID_ARGUMENT,
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "Batching Run() must have at least one input tensor"),
    ],
)
async def test_what_cannot_be_batched_is_refused(inputs: dict[str, Any], code: grpc.StatusCode, text: str) -> None:
    arrays = {alias: np.array(value, np.float32) for alias, value in inputs.items()}
    async with batching(FakeServable(), max_size=8, max_run_size=8) as ask:
        assert await ask(Call(signature=TWO_INPUTS, inputs=arrays, outputs=("y",))) == (code, text)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: x.sum(), "Batched output tensor has 0 dimensions"),
        (lambda x: x[:1], "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes"),
    ],
)
async def test_outputs_that_are_not_rows_fail(function: Callable[[Array], Array], text: str) -> None:
    async with batching(FakeServable(lambda x: np.asarray(function(x)))) as ask:
        servable = FakeServable()
        code, said = await ask(call_of(servable, [1.0, 2.0]))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert said.startswith(text)


async def test_a_full_queue_is_unavailable() -> None:
    answered = await answers(FakeServable(), [[1.0], [2.0], [3.0]], max_size=1, max_run_size=1, max_queue=2)
    full = "The batch scheduling queue to which this task was submitted is full; "
    assert answered == [
        [2.5],
        [3.0],
        (grpc.StatusCode.UNAVAILABLE, f"{full}currently 2 batches enqueued and max_enqueued_batches is 2"),
    ]


async def test_an_empty_request_waits_for_the_next() -> None:
    servable = FakeServable()
    async with batching(servable) as ask:
        empty = ask(call_of(servable, []))
        await asyncio.sleep(0.02)
        assert not empty.done()
        assert await ask(call_of(servable, [1.0])) == [2.5]
        assert await empty == []


async def test_a_request_waits_for_company_as_long_as_it_is_told_to() -> None:
    servable = FakeServable()
    async with batching(servable, timeout_s=600, max_size=2, max_run_size=2) as ask:
        first = ask(call_of(servable, [1.0]))
        await asyncio.sleep(0.02)
        assert not first.done()
        assert [await ask(call_of(servable, [2.0])), await first] == [[3.0], [2.5]]
    assert servable.runs == [2]


async def test_a_request_with_a_filter_matches_no_signature_and_runs_alone() -> None:
    two_outputs = signature(outputs=(slot("y"), slot("other")))
    servable = FakeServable(its=two_outputs)
    filtered = Call(signature=two_outputs, inputs={"x": np.array([[1.0, 2.0]], np.float32)}, outputs=("y",))
    async with batching(servable, timeout_s=600) as ask:
        assert await ask(filtered) == [[2.5, 3.0]]


async def test_a_large_request_is_split_where_that_is_asked_for() -> None:
    servable = FakeServable()
    split = {"max_size": 100, "max_run_size": 2, "splits": True, "max_queue": 3}
    answered = await answers(servable, [[1.0], [2.0, 3.0, 4.0], [5.0] * 9], **split)
    assert answered[:2] == [[2.5], [3.0, 3.5, 4.0]]
    assert answered[2][0] is grpc.StatusCode.UNAVAILABLE
    assert "task size is 9 but scheduling capacity is only 2 " in answered[2][1]
    assert servable.runs == [1, 2, 2]


async def test_a_batch_runs_while_one_of_its_callers_waits() -> None:
    servable = FakeServable()
    servable.may_run.clear()
    async with batching(servable) as ask:
        busy = ask(call_of(servable, [0.0]))
        await asyncio.to_thread(servable.has_started.wait, 20)
        gone, patient = ask(call_of(servable, [1.0])), ask(call_of(servable, [2.0]))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        servable.may_run.set()
        assert [await busy, await patient] == [[2.0], [3.0]]
        nobody = ask(call_of(servable, [3.0]))
        nobody.cancel()
        await until(lambda: len(servable.runs) == 2)
    assert servable.runs == [1, 2]


async def test_the_latest_deadline_of_a_batch_counts() -> None:
    servable = FakeServable()
    servable.may_run.clear()
    async with batching(servable) as ask:
        busy = ask(call_of(servable, [0.0]))
        await asyncio.to_thread(servable.has_started.wait, 20)
        late = [ask(call_of(servable, [1.0]), left_s) for left_s in (0.001, 20)]
        await asyncio.sleep(0.02)
        servable.may_run.set()
        assert [await task for task in (busy, *late)] == [[2.0], [2.5], [2.5]]


async def test_a_batch_past_all_its_deadlines_is_not_run() -> None:
    servable = FakeServable()
    servable.may_run.clear()
    async with batching(servable) as ask:
        busy = ask(call_of(servable, [0.0]))
        await asyncio.to_thread(servable.has_started.wait, 20)
        late = ask(call_of(servable, [1.0]), 0.001)
        await asyncio.sleep(0.02)
        servable.may_run.set()
        said = "Run() timeout exceeded while waiting in batching queue"
        assert [await busy, await late] == [[2.0], (grpc.StatusCode.RESOURCE_EXHAUSTED, said)]
    assert servable.runs == [1]


def parsed(text: str) -> SessionBatchingOptions:
    message = text_format.Parse(text, text_config.message_class("BatchingParameters")())
    return session_batching.options(message)


def test_parameters_have_the_real_servers_names_and_defaults() -> None:
    assert parsed("num_batch_threads { value: 3 }") == SessionBatchingOptions(workers=3)
    options = parsed(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 1500 } max_enqueued_batches { value: 5 }"
        'num_batch_threads { value: 2 } thread_pool_name { value: "t" } pad_variable_length_inputs: true'
        " allowed_batch_sizes: 2 allowed_batch_sizes: 8"
    )
    assert options == SessionBatchingOptions(
        max_size=8, max_run_size=8, timeout_s=0.0015, max_queue=5, workers=2, allowed_sizes=(2, 8), pads_inputs=True
    )
    split = parsed("enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 }")
    assert (split.max_size, split.max_run_size, split.splits) == (1000, 4, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
        ),
        (
            "allowed_batch_sizes: 4 allowed_batch_sizes: 2",
            "allowed_batch_sizes entries must be monotonically increasing",
        ),
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
    ],
)
def test_wrong_parameters_are_told(text: str, said: str) -> None:
    with pytest.raises(StartError, match=said):
        parsed(text)


async def test_it_is_so_on_the_wire(publish: Callable[..., Path]) -> None:
    async with serving(publish(1).parent, batching=SessionBatchingOptions(max_size=8, max_run_size=8)) as client:
        assert await client.y([1.0, 2.0]) == [2.5, 3.0]
        code, text = await error_of(client.y([1.0] * 9))
        assert (code, text) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "Task size 9 is larger than maximum input batch size 8",
        )
        scalar = client.predict(predict_request({"x": np.float32(1.0)}, signature="scalar"))
        assert (await error_of(scalar))[1] == "Batching Run() input tensors must have at least one dimension"
