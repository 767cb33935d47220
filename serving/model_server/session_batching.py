"""`--enable_batching`: batches as tensorflow_model_server does, with what it refuses and where it fails.

Requests of one signature share a batch whatever their inner shapes, one error fails all of them, and a batch runs as
long as one of its callers still waits. `batching` is the default, which changes no answer.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from serving.model_server import deadlines
from serving.model_server.errors import ServingError, StartError, invalid_argument
from serving.model_server.lifecycle import Version
from serving.model_server.servable import Servable
from serving.model_server.signatures import Call
from serving.model_server.tensors import Array

Outputs = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class SessionBatchingOptions:
    """BatchingParameters, with the defaults of tensorflow_model_server."""

    max_size: int = 1000  # rows of one request
    max_run_size: int = 1000  # rows of one run; less than max_size where requests are split
    timeout_s: float = 0.0
    max_queue: int = 10  # batches
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    allowed_sizes: tuple[int, ...] = ()
    pads_inputs: bool = False
    splits: bool = False


def options(parameters: Any) -> SessionBatchingOptions:
    """The options in a BatchingParameters message. Raises StartError."""
    defaults = SessionBatchingOptions()

    def value(name: str, default: Any) -> Any:
        return getattr(parameters, name).value if parameters.HasField(name) else default

    max_size = value("max_batch_size", defaults.max_size)
    splits = value("enable_large_batch_splitting", False)
    run_size = value("max_execution_batch_size", max_size) if splits else max_size
    allowed = tuple(parameters.allowed_batch_sizes)
    _check(max_size, run_size, allowed)
    return SessionBatchingOptions(
        max_size=max_size,
        max_run_size=run_size,
        timeout_s=value("batch_timeout_micros", 0) / 1e6,
        max_queue=value("max_enqueued_batches", defaults.max_queue),
        workers=max(1, value("num_batch_threads", defaults.workers)),
        allowed_sizes=allowed,
        pads_inputs=parameters.pad_variable_length_inputs,
        splits=splits,
    )


def _check(max_size: int, run_size: int, allowed: Sequence[int]) -> None:
    if max_size < 1 or not 1 <= run_size <= max_size:
        raise StartError(
            f"INVALID_ARGUMENT: max_batch_size must be positive; was {max_size}, and max_execution_batch_size between "
            f"1 and it; was {run_size}"
        )
    if list(allowed) != sorted(set(allowed)):
        raise StartError(
            f"INVALID_ARGUMENT: allowed_batch_sizes entries must be monotonically increasing; was {list(allowed)}"
        )
    if allowed and allowed[-1] != run_size:
        raise StartError(
            f"INVALID_ARGUMENT: Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
            f"{allowed[-1]}; expected {run_size}"
        )


@dataclass(eq=False, kw_only=True)
class Task:
    """A request, or a part of one that was split."""

    version: Version
    call: Call
    inputs: Mapping[str, Array]
    rows: int
    answer: asyncio.Future[Outputs]
    deadline_s: float = field(default_factory=deadlines.current)

    def is_over(self, now_s: float) -> bool:
        return now_s >= self.deadline_s or self.answer.done()


@dataclass(eq=False)
class Batch:
    """Tasks that will share a run; closed when the next one has begun."""

    tasks: list[Task] = field(default_factory=list)
    since_s: float = 0.0

    @property
    def rows(self) -> int:
        return sum(task.rows for task in self.tasks)


class SessionBatcher:
    """A queue of batches for each signature. Its methods belong to the event loop; runs happen in `executor`."""

    def __init__(self, options: SessionBatchingOptions, executor: Executor) -> None:
        self._options = options
        self._executor = executor
        self._queues: dict[Hashable, deque[Batch]] = {}
        self._arrived = asyncio.Event()

    async def run(self, version: Version, call: Call) -> Outputs:
        """The outputs of the call. Raises ServingError."""
        if len(call.outputs) != len(call.signature.outputs):  # an output_filter: no declared signature, no batch
            return await self._run_alone(version, call)
        rows = _rows(call)
        key = _key(version, call)
        queue = self._queues.get(key) or deque([Batch()])
        self._check_capacity(queue, rows)
        self._queues[key] = queue
        with version.lease():
            tasks = [self._enqueue(queue, version, call, part, count) for part, count in self._parts(call, rows, queue)]
            self._arrived.set()
            answers = await asyncio.gather(*(task.answer for task in tasks))
        if len(answers) == 1:
            return answers[0]
        return {alias: np.concatenate([answer[alias] for answer in answers]) for alias in call.outputs}

    async def work(self) -> None:
        """Runs batches until cancelled, `workers` at a time."""
        await asyncio.gather(*(self._work() for _ in range(self._options.workers)))

    async def _run_alone(self, version: Version, call: Call) -> Outputs:
        loop = asyncio.get_running_loop()
        with version.lease() as servable:
            return await loop.run_in_executor(self._executor, servable.run, call.signature, call.inputs, call.outputs)

    def _check_capacity(self, queue: deque[Batch], rows: int) -> None:
        options, open_rows = self._options, queue[-1].rows
        if rows > options.max_size:
            raise invalid_argument(f"Task size {rows} is larger than maximum input batch size {options.max_size}")
        full = "The batch scheduling queue to which this task was submitted is full; "
        if options.splits:
            capacity = (options.max_queue - len(queue) + 1) * options.max_run_size - open_rows
            if rows > capacity:
                raise ServingError(
                    grpc.StatusCode.UNAVAILABLE,
                    f"{full}task size is {rows} but scheduling capacity is only {capacity} "
                    f"(num_enqueued_batches={len(queue)}, max_enqueued_batches={options.max_queue}, "
                    f"open_batch_size={open_rows}, max_execution_batch_size={options.max_run_size})",
                )
        elif open_rows + rows > options.max_size and len(queue) >= options.max_queue:
            raise ServingError(
                grpc.StatusCode.UNAVAILABLE,
                f"{full}currently {len(queue)} batches enqueued and max_enqueued_batches is {options.max_queue}",
            )

    def _parts(self, call: Call, rows: int, queue: deque[Batch]) -> list[tuple[Mapping[str, Array], int]]:
        """The request in parts: the first fills the open batch, where requests are split at all."""
        limit = self._options.max_run_size
        room = limit - queue[-1].rows
        if not self._options.splits or rows <= room:
            return [(call.inputs, rows)]
        ends = [*([room] if room else []), *range(room + limit, rows, limit), rows]
        starts = [0, *ends[:-1]]
        return [
            ({alias: array[start:end] for alias, array in call.inputs.items()}, end - start)
            for start, end in zip(starts, ends, strict=True)
        ]

    def _enqueue(
        self, queue: deque[Batch], version: Version, call: Call, inputs: Mapping[str, Array], rows: int
    ) -> Task:
        answer: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        task = Task(version=version, call=call, inputs=inputs, rows=rows, answer=answer)
        if queue[-1].rows + rows > self._options.max_run_size:
            queue.append(Batch())
        if not queue[-1].rows:
            queue[-1].since_s = time.monotonic()
        queue[-1].tasks.append(task)
        return task

    async def _work(self) -> None:
        while True:
            batch = self._take()
            if batch:
                await self._answer(batch)
                continue
            self._arrived.clear()
            await self._wait()

    async def _wait(self) -> None:
        """Until a request arrives, or the oldest open batch is due."""
        due = [queue[0].since_s + self._options.timeout_s for queue in self._queues.values() if queue[0].rows]
        left_s = max(0.0, min(due) - time.monotonic()) if due else None
        try:
            async with asyncio.timeout(left_s):
                await self._arrived.wait()
        except TimeoutError:
            return

    def _take(self) -> list[Task]:
        """The oldest batch that is closed, full, or has waited long enough; an empty one waits on."""
        now = time.monotonic()
        ready = [key for key, queue in self._queues.items() if self._is_ready(queue, now)]
        if not ready:
            return []
        key = min(ready, key=lambda key: self._queues[key][0].since_s)
        queue = self._queues[key]
        tasks = queue.popleft().tasks
        if not queue:
            del self._queues[key]
        return tasks

    def _is_ready(self, queue: deque[Batch], now: float) -> bool:
        batch = queue[0]
        is_full = len(queue) > 1 or batch.rows >= self._options.max_run_size
        return batch.rows > 0 and (is_full or now >= batch.since_s + self._options.timeout_s)

    async def _answer(self, tasks: list[Task]) -> None:
        loop = asyncio.get_running_loop()
        now_s = time.monotonic()
        try:
            if all(
                task.is_over(now_s) for task in tasks
            ):  # while one caller waits, all run: the latest deadline counts
                raise ServingError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue"
                )
            with tasks[0].version.lease() as servable:
                results = await loop.run_in_executor(self._executor, run_batch, servable, tasks, self._options)
        except Exception as error:
            for task in tasks:
                if not task.answer.done():
                    task.answer.set_exception(error)
            return
        for task, result in zip(tasks, results, strict=True):
            if not task.answer.done():
                task.answer.set_result(result)


def run_batch(servable: Servable, tasks: Sequence[Task], options: SessionBatchingOptions) -> list[Outputs]:
    """The outputs of each task. Raises ServingError, which is the answer to all of them."""
    call, rows = tasks[0].call, sum(task.rows for task in tasks)
    padding = next((size for size in options.allowed_sizes if size >= rows), rows) - rows
    inputs = {
        slot.alias: _merged(slot.tensor_name, [task.inputs[slot.alias] for task in tasks], padding, options)
        for slot in call.signature.inputs
    }
    outputs = servable.run(call.signature, inputs, call.outputs)
    for output in outputs.values():
        if output.ndim == 0:
            raise _failed("Batched output tensor has 0 dimensions")
        if len(output) != rows + padding:
            raise _failed(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                "input tensors"
            )
    ends = np.cumsum([task.rows for task in tasks]).tolist()
    return [
        {alias: output[end - task.rows : end] for alias, output in outputs.items()}
        for task, end in zip(tasks, ends, strict=True)
    ]


def _merged(name: str, arrays: Sequence[Array], padding: int, options: SessionBatchingOptions) -> Array:
    """One input of all tasks, filled up with the last task's first row."""
    if options.pads_inputs:
        arrays = _padded(arrays)
    elif len({array.shape[1:] for array in arrays}) > 1:
        raise _failed(
            f"Tensors with name '{name}' from different tasks have different shapes and padding is turned off."
            "Set pad_variable_length_inputs to true, or ensure that all tensors with the same namehave equal "
            "dimensions starting with the first dim."
        )
    filler = [np.repeat(arrays[-1][:1], padding, axis=0)] if padding else []
    return np.concatenate([*arrays, *filler])


def _padded(arrays: Sequence[Array]) -> list[Array]:
    """All arrays with the greatest inner dimensions; what is added is an array's first element, not 0."""
    if len({array.ndim for array in arrays}) > 1:
        raise _failed("Tensors to be padded have different ranks")
    inner = np.max([array.shape[1:] for array in arrays], axis=0).astype(int)
    padded = []
    for array in arrays:
        filled = np.empty((len(array), *inner), array.dtype)
        if array.size:
            filled[...] = array.reshape(-1)[0]
        elif array.dtype == np.object_:
            filled[...] = b""
        else:
            filled[...] = 0
        filled[tuple(slice(size) for size in array.shape)] = array
        padded.append(filled)
    return padded


def _rows(call: Call) -> int:
    if not call.inputs:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    if any(array.ndim == 0 for array in call.inputs.values()):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    sizes = {len(array) for array in call.inputs.values()}
    if len(sizes) > 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def _failed(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)


def _key(version: Version, call: Call) -> Hashable:
    return (id(version), call.signature.name, call.outputs)
