"""A servable that is a Python function, for tests that need no TensorFlow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from serving.model_server.errors import ServingError
from serving.model_server.signatures import Call, Signature, Slot
from serving.model_server.tensors import Array

FLOAT = 1


def slot(alias: str, *, dtype: int = FLOAT, shape: tuple[int, ...] | None = (-1,)) -> Slot:
    return Slot(alias=alias, tensor_name=f"{alias}:0", dtype=dtype, shape=shape)


def signature(
    *,
    inputs: Sequence[Slot] = (slot("x"),),
    outputs: Sequence[Slot] = (slot("y"),),
    defaults: Mapping[str, Any] | None = None,
) -> Signature:
    return Signature(
        name="serving_default",
        method_name="tensorflow/serving/predict",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        defaults=defaults or {},
    )


class FakeServable:
    """y = function(x), row by row; `runs` are the sizes of its runs."""

    def __init__(
        self, function: Callable[[Array], Array] = lambda x: x / 2 + 2, *, its: Signature | None = None
    ) -> None:
        its = its or signature()
        self.signatures = {its.name: its}
        self.signature_defs: Mapping[str, Any] = {}
        self.function = function
        self.runs: list[int] = []
        self.is_closed = False
        self.has_started = threading.Event()
        self.may_run = threading.Event()
        self.may_run.set()

    def run(self, signature: Signature, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        assert not self.is_closed
        self.has_started.set()
        assert self.may_run.wait(timeout=20)
        assert not self.is_closed
        x = inputs["x"]
        self.runs.append(len(x) if x.ndim else 0)
        return {"y": self.function(x)}

    def close(self) -> None:
        self.is_closed = True


def call_of(servable: FakeServable, values: Any) -> Call:
    its = servable.signatures["serving_default"]
    return Call(signature=its, inputs={"x": np.array(values, np.float32)}, outputs=("y",))


class FakeLoader:
    """Loads a fake from any directory; fails as often as `failures` says for its number."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}
        self.tries: list[str] = []
        self.loaded: dict[str, FakeServable] = {}

    def __call__(self, directory: Path) -> FakeServable:
        name = directory.name
        self.tries.append(name)
        if self.failures.get(name, 0) > 0:
            self.failures[name] -= 1
            raise ServingError(grpc.StatusCode.DATA_LOSS, f"{name} is broken")
        self.loaded[name] = FakeServable()
        return self.loaded[name]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  it polls the file system's effect, which nobody signals
            await asyncio.sleep(0.002)
