"""Asks a model server for scores in a closed loop, and keeps its answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc.aio
import numpy as np
import numpy.typing as npt

from longtail.tfserving import message_class

PredictRequest = message_class("tensorflow.serving.PredictRequest")
PredictResponse = message_class("tensorflow.serving.PredictResponse")
GetModelMetadataRequest = message_class("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = message_class("tensorflow.serving.GetModelMetadataResponse")
SignatureDefMap = message_class("tensorflow.serving.SignatureDefMap")

SERVICE: Final = "/tensorflow.serving.PredictionService"
QUESTIONS: Final = 200
TIMEOUT_S: Final = 30.0
_FLOAT, _STRING, _INT64 = 1, 7, 9
_FIELDS: Final = {_FLOAT: "float_val", _STRING: "string_val", _INT64: "int64_val"}

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the unknown dimensions of the inputs become; the first is one row."""

    history: int = 50
    candidates: int = 200


@dataclass(kw_only=True)
class Measured:
    """One closed loop. Latencies and the server's CPU for a request in ms; answers by question."""

    answered: int = 0
    cpu_ms: float = 0.0
    per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    answers: dict[int, Scores] = field(default_factory=dict)


async def questions(address: str, model_name: str, signature: str, shape: Shape) -> list[bytes]:
    """Random requests that fit the signature, as the model server describes it."""
    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = model_name
    async with grpc.aio.insecure_channel(address) as channel:
        ask = channel.unary_unary(
            f"{SERVICE}/GetModelMetadata",
            request_serializer=GetModelMetadataRequest.SerializeToString,
            response_deserializer=GetModelMetadataResponse.FromString,
        )
        response = await ask(request, timeout=TIMEOUT_S)
    signatures = SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    rng = random.Random(1)  # noqa: S311
    inputs = signatures.signature_def[signature].inputs
    return [question(model_name, signature, inputs, shape, rng) for _ in range(QUESTIONS)]


async def measure(address: str, asked: Sequence[bytes], *, callers: int, seconds: float) -> Measured:
    """`callers` that ask again once they are answered."""
    times_s: list[float] = []
    answers: dict[int, bytes] = {}
    places = iter(range(1 << 62))
    async with grpc.aio.insecure_channel(address) as channel:
        ask: Any = channel.unary_unary(f"{SERVICE}/Predict")
        await channel.channel_ready()
        end_s = time.perf_counter() + seconds

        async def ask_again() -> None:
            while (began_s := time.perf_counter()) < end_s:
                place = next(places) % len(asked)
                answers[place] = await ask(asked[place], timeout=TIMEOUT_S)
                times_s.append(time.perf_counter() - began_s)

        began_s = time.perf_counter()
        await asyncio.gather(*(ask_again() for _ in range(callers)))
        took_s = time.perf_counter() - began_s
    ordered = sorted(times_s)
    return Measured(
        answered=len(ordered),
        per_s=len(ordered) / took_s,
        p50_ms=1000 * ordered[len(ordered) // 2],
        p99_ms=1000 * ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)],
        answers={place: _scores(answer) for place, answer in answers.items()},
    )


def question(model_name: str, signature: str, inputs: Any, shape: Shape, rng: random.Random) -> bytes:
    """One PredictRequest of one row, with random values."""
    request = PredictRequest()
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature
    for alias, info in inputs.items():
        unknown = shape.candidates if "candidate" in alias else shape.history
        sizes = [1, *(dim.size if dim.size > 0 else unknown for dim in info.tensor_shape.dim[1:])]
        proto = request.inputs[alias]
        proto.dtype = info.dtype
        for size in sizes:
            proto.tensor_shape.dim.add(size=size)
        values = [_value(alias, info.dtype, rng) for _ in range(int(np.prod(sizes)))]
        getattr(proto, _FIELDS[info.dtype]).extend(values)
    content: bytes = request.SerializeToString()
    return content


def _value(alias: str, dtype: int, rng: random.Random) -> Any:
    if dtype == _STRING:
        return b"view" if "type" in alias else b"%d" % rng.randrange(2000)
    return 0 if dtype == _INT64 else rng.random() * (86_400 if alias.endswith("_s") else 1)


def _scores(content: bytes) -> Scores:
    (output,) = PredictResponse.FromString(content).outputs.values()
    if output.tensor_content:
        return np.frombuffer(output.tensor_content, np.float32)
    return np.array(output.float_val, np.float32)
