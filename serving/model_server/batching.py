"""Micro-batching: requests that wait for the same model, signature and inner shapes share one run.

A worker that becomes free takes the oldest request and all that may join it, so batches grow under load and cost no
wait without it. Answers do not change: rows are independent in the signatures this applies to (every input and output
has an unknown first dimension), and a run that fails is repeated request by request, so that only the bad one fails.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import grpc
import numpy as np

from serving.model_server import deadlines
from serving.model_server.errors import ServingError
from serving.model_server.lifecycle import Version
from serving.model_server.servable import Servable
from serving.model_server.signatures import Call
from serving.model_server.tensors import Array

Outputs = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class BatchingOptions:
    """`max_size` 1 turns micro-batching off."""

    max_size: int = 8  # rows; more would leave the worker idle while their answers are sent
    wait_s: float = 0.0
    max_queue: int = 1000  # requests
    workers: int = 1  # runs at a time


@dataclass(eq=False, kw_only=True)
class Waiting:
    """A request in the queue; it is over early when its caller gave up or its deadline has passed."""

    version: Version
    call: Call
    rows: int
    answer: asyncio.Future[Outputs]
    since_s: float = field(default_factory=time.monotonic)
    deadline_s: float = field(default_factory=deadlines.current)

    def is_over(self, now_s: float) -> bool:
        if now_s >= self.deadline_s and not self.answer.done():
            self.answer.set_exception(ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline passed in the queue"))
        return self.answer.done()


class MicroBatcher:
    """The bounded queue in front of the model. Its methods belong to the event loop; runs happen in `executor`."""

    def __init__(self, options: BatchingOptions, executor: Executor) -> None:
        self._options = options
        self._executor = executor
        self._queues: dict[Hashable, deque[Waiting]] = {}  # by what may share a run, oldest first
        self._size = 0
        self._arrived = asyncio.Event()

    async def run(self, version: Version, call: Call) -> Outputs:
        """The outputs of the call. Raises ServingError, UNAVAILABLE when the queue is full."""
        if self._size >= self._options.max_queue:
            self._drop_expired()
        if self._size >= self._options.max_queue:
            raise ServingError(
                grpc.StatusCode.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted is full; "
                f"{self._size} requests wait: send again later, or raise --micro_batch_max_queue",
            )
        rows = _shared_rows(call)
        waiting = Waiting(version=version, call=call, rows=rows, answer=asyncio.get_running_loop().create_future())
        alone = not rows or rows >= self._options.max_size
        self._queues.setdefault(id(waiting) if alone else _key(version, call), deque()).append(waiting)
        self._size += 1
        self._arrived.set()
        with version.lease():
            return await waiting.answer

    async def work(self) -> None:
        """Runs batches until cancelled, `workers` at a time."""
        await asyncio.gather(*(self._work() for _ in range(self._options.workers)))

    async def _work(self) -> None:
        while True:
            batch = self._take()
            if batch:
                await self._answer(batch)
                continue
            self._arrived.clear()
            await self._wait()

    async def _wait(self) -> None:
        """Until a request arrives, or the oldest has waited long enough for company."""
        oldest = self._oldest()
        left_s = None if oldest is None else oldest.since_s + self._options.wait_s - time.monotonic()
        try:
            async with asyncio.timeout(left_s):
                await self._arrived.wait()
        except TimeoutError:
            return

    def _oldest(self) -> Waiting | None:
        heads = [queue[0] for queue in self._queues.values()]
        return min(heads, key=lambda waiting: waiting.since_s, default=None)

    def _take(self) -> list[Waiting]:
        """The oldest requests that may share a run, without those whose callers gave up."""
        self._drop_expired()
        now = time.monotonic()
        for key in sorted(self._queues, key=lambda key: self._queues[key][0].since_s):
            queue = self._queues[key]
            rows = sum(waiting.rows for waiting in queue)
            is_due = now >= queue[0].since_s + self._options.wait_s
            if is_due or not queue[0].rows or rows >= self._options.max_size:
                return self._take_from(key, queue)
        return []

    def _take_from(self, key: Hashable, queue: deque[Waiting]) -> list[Waiting]:
        batch = [queue.popleft()]
        rows = batch[0].rows
        while queue and rows + queue[0].rows <= self._options.max_size:
            rows += queue[0].rows
            batch.append(queue.popleft())
        self._size -= len(batch)
        if not queue:
            del self._queues[key]
        return batch

    def _drop_expired(self) -> None:
        now_s = time.monotonic()
        for key, queue in list(self._queues.items()):
            alive = deque(waiting for waiting in queue if not waiting.is_over(now_s))
            self._size -= len(queue) - len(alive)
            if alive:
                self._queues[key] = alive
            else:
                del self._queues[key]

    async def _answer(self, batch: Sequence[Waiting]) -> None:
        loop = asyncio.get_running_loop()
        with batch[0].version.lease() as servable:
            calls = [waiting.call for waiting in batch]
            results = await loop.run_in_executor(self._executor, run_together, servable, calls)
        for waiting, result in zip(batch, results, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(result, Exception):
                waiting.answer.set_exception(result)
            else:
                waiting.answer.set_result(result)


def run_together(servable: Servable, calls: Sequence[Call]) -> list[Outputs | Exception]:
    """Each call's outputs or its error, in one run where that works, else one by one."""
    if len(calls) > 1:
        try:
            outputs = _run(servable, calls[0], _stacked(calls))
            return list(_split(outputs, [_shared_rows(call) for call in calls]))
        except Exception:  # noqa: S110  one of them is at fault, or the model's outputs are not rows
            pass
    return [_run_alone(servable, call) for call in calls]


def _run_alone(servable: Servable, call: Call) -> Outputs | Exception:
    try:
        return _run(servable, call, call.inputs)
    except Exception as error:
        return error


def _run(servable: Servable, call: Call, inputs: Mapping[str, Array]) -> Outputs:
    return servable.run(call.signature, inputs, call.outputs)


def _stacked(calls: Sequence[Call]) -> Outputs:
    return {alias: np.concatenate([call.inputs[alias] for call in calls]) for alias in calls[0].inputs}


def _split(outputs: Outputs, rows: Sequence[int]) -> list[Outputs]:
    """The outputs of each call. Raises ValueError when an output does not have one row for each row of input."""
    total = sum(rows)
    for alias, output in outputs.items():
        if output.ndim == 0 or len(output) != total:
            raise ValueError(f"output {alias} of shape {output.shape} does not have {total} rows")
    ends = np.cumsum(rows).tolist()
    return [
        {alias: output[end - count : end] for alias, output in outputs.items()}
        for end, count in zip(ends, rows, strict=True)
    ]


def _shared_rows(call: Call) -> int:
    """The rows that all inputs have; 0 where the call must run alone."""
    if not call.signature.is_rowwise:
        return 0
    rows = {len(array) if array.ndim else 0 for array in call.inputs.values()}
    return rows.pop() if len(rows) == 1 else 0


def _key(version: Version, call: Call) -> Hashable:
    shapes = tuple((alias, array.shape[1:]) for alias, array in call.inputs.items())
    return (id(version), call.signature.name, call.outputs, shapes)
