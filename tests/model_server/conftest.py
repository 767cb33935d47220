"""Tiny SavedModels whose answers one can compute in one's head, and a server in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import tensorflow as tf

from longtail.tfserving import message_class, service
from serving.model_server import tensors
from serving.model_server.batching import BatchingOptions
from serving.model_server.config import ModelConfig
from serving.model_server.lifecycle import LifecycleOptions
from serving.model_server.servable import Load
from serving.model_server.server import Running, ServerOptions, serve
from serving.model_server.session_batching import SessionBatchingOptions
from serving.model_server.tensorflow_servable import SessionOptions, loader

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"


def floats(*shape: int | None, name: str = "x") -> Any:
    return tf.TensorSpec(shape, tf.float32, name=name)


class HalfPlus(tf.Module):  # type: ignore[misc]
    """y = x / 2 + offset; `lookup` finds strings, `gather` sums rows by number, `compiled` needs XLA."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = tf.Variable(offset)
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(["apple", "pear"], tf.constant([1, 2], tf.int64)), default_value=0
        )
        self.rows = tf.Variable([0.0, 10.0, 20.0])
        ids, index = tf.TensorSpec([None, None], tf.string, "ids"), tf.TensorSpec([None, None], tf.int64, "index")
        self.functions = {
            "serving_default": tf.function(self._half, [floats(None)]),
            "lookup": tf.function(self._lookup, [ids]),
            "gather": tf.function(self._gather, [index, floats(None, 1, name="weight")]),
            "scalar": tf.function(lambda x: {"y": x / 2 + self.offset}, [floats()]),
            "mean": tf.function(lambda x: {"y": tf.reduce_mean(x)[None]}, [floats(None)]),
            "compiled": tf.function(lambda x: {"y": x / 2 + self.offset}, [floats(None)], jit_compile=True),
        }

    def _half(self, x: Any) -> Any:
        return {"y": x / 2 + self.offset, "n": tf.cast(x, tf.int64)}

    def _lookup(self, ids: Any) -> Any:
        return {"index": self.table.lookup(ids), "ids": tf.identity(ids)}

    def _gather(self, index: Any, weight: Any) -> Any:
        return {"score": tf.reduce_sum(tf.gather(self.rows, index), axis=1) * weight[:, 0]}


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """Makes the SavedModel of an offset, once."""
    made: dict[float, Path] = {}

    def make(offset: float) -> Path:
        if offset not in made:
            model = HalfPlus(offset)
            path = tmp_path_factory.mktemp("saved_model") / "model"
            tf.saved_model.save(model, str(path), dict(model.functions))
            made[offset] = path
        return made[offset]

    return make


def save_graph_of_examples(path: Path) -> None:
    """A SavedModel as TensorFlow 1 made them: y = x / 2 + 2 where x comes in tf.Examples; y2 = x + 2."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, name="tf_example")
        x = v1.parse_example(serialized, {"x": v1.FixedLenFeature([1], tf.float32)})["x"]
        half = v1.Variable(0.5, use_resource=True)
        outputs = {"y": tf.multiply(x, half) + 2.0, "y2": x + 2.0, "wide": tf.concat([x, x], axis=1)}
        labels = tf.tile([["low", "high"]], [tf.shape(x)[0], 1])
        session.run(v1.global_variables_initializer())

        def signature(method: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
            infos = [
                {alias: v1.saved_model.utils.build_tensor_info(tensor) for alias, tensor in tensors.items()}
                for tensors in (inputs, outputs)
            ]
            return v1.saved_model.signature_def_utils.build_signature_def(*infos, f"tensorflow/serving/{method}")

        examples = {"inputs": serialized}
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": signature("predict", {"x": x}, {"y": outputs["y"]}),
                "classify_x_to_y": signature("classify", examples, {"scores": outputs["y"]}),
                "classify_labels": signature("classify", examples, {"classes": labels, "scores": outputs["wide"]}),
                "classify_unequal": signature("classify", examples, {"classes": labels, "scores": outputs["y"]}),
                "regress_x_to_y": signature("regress", examples, {"outputs": outputs["y"]}),
                "regress_x_to_y2": signature("regress", examples, {"outputs": outputs["y2"]}),
                "regress_wide": signature("regress", examples, {"outputs": outputs["wide"]}),
                "regress_floats": signature("regress", {"inputs": x}, {"outputs": outputs["y"]}),
                "regress_misnamed": signature("regress", {"x": serialized}, {"outputs": outputs["y"]}),
                "other_method": signature("other", {"inputs": serialized}, {"outputs": outputs["y"]}),
            },
        )
        builder.save()


@pytest.fixture(scope="session")
def model_of_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base path of the graph of examples, version 123."""
    base_path = tmp_path_factory.mktemp("examples") / "model"
    base_path.mkdir()
    save_graph_of_examples(base_path / "00000123")
    return base_path


Publish = Callable[..., Path]


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture
def publish(base_path: Path, saved_model: Callable[[float], Path]) -> Publish:
    """Copies a model beside the base path and renames it into place."""

    def publish(version: int | str, offset: float = 2.0, warmup: bytes | None = None) -> Path:
        staging = base_path.parent / f"staging-{version}"
        shutil.copytree(saved_model(offset), staging)
        if warmup is not None:
            (staging / "assets.extra").mkdir()
            (staging / "assets.extra" / "tf_serving_warmup_requests").write_bytes(warmup)
        return staging.rename(base_path / str(version))

    return publish


def predict_request(
    inputs: Mapping[str, Any] | None = None,
    *,
    name: str = "m",
    signature: str = "",
    version: int | None = None,
    outputs: tuple[str, ...] = (),
) -> Any:
    """A PredictRequest; a list of numbers is float32, one of strings is bytes."""
    request = message_class("tensorflow.serving.PredictRequest")(output_filter=outputs)
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for alias, value in (inputs or {}).items():
        request.inputs[alias].CopyFrom(tensors.encode(as_array(value)))
    return request


def as_array(value: Any) -> tensors.Array:
    if isinstance(value, np.ndarray):
        return value
    array: tensors.Array = np.array(value)
    if array.dtype.kind == "U":
        return np.char.encode(array).astype(np.object_)
    return array.astype(np.float32)


@dataclass(frozen=True)
class Client:
    """A plain gRPC client of one server."""

    channel: grpc.aio.Channel
    running: Running

    async def call(self, service_name: str, method: str, request: Any, timeout_s: float = 20) -> Any:
        descriptor = service(service_name).methods_by_name[method]
        call = self.channel.unary_unary(
            f"/{service_name}/{method}",
            request_serializer=message_class(descriptor.input_type.full_name).SerializeToString,
            response_deserializer=message_class(descriptor.output_type.full_name).FromString,
        )
        return await call(request, timeout=timeout_s)

    async def predict(self, request: Any, timeout_s: float = 20) -> Any:
        return await self.call(PREDICTION_SERVICE, "Predict", request, timeout_s)

    async def y(self, x: list[float], **keywords: Any) -> list[float]:
        response = await self.predict(predict_request({"x": x}, **keywords))
        return list(response.outputs["y"].float_val)

    async def states(self, name: str = "m") -> dict[int, Any]:
        """ModelVersionStatus by version."""
        request = message_class("tensorflow.serving.GetModelStatusRequest")()
        request.model_spec.name = name
        response = await self.call(MODEL_SERVICE, "GetModelStatus", request)
        return {status.version: status for status in response.model_version_status}

    async def reaches(self, version: int, state: int) -> Any:
        """Waits until the version is in the state, and returns its status."""
        async with asyncio.timeout(20):
            while True:
                status = (await self.states()).get(version)
                if status is not None and status.state == state:
                    return status
                await asyncio.sleep(0.01)


LOAD: Load = loader(SessionOptions())

QUICK = LifecycleOptions(poll_wait_s=0.02, max_load_retries=0, load_retry_interval_s=0.01)


@contextlib.asynccontextmanager
async def serving(
    base_path: Path,
    *,
    load: Load = LOAD,
    lifecycle: LifecycleOptions = QUICK,
    batching: BatchingOptions | SessionBatchingOptions | None = None,
    models: tuple[ModelConfig, ...] = (),
    rest_port: int | None = None,
    stop: asyncio.Event | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """A server of model `m`, or of the models given, on free ports, and a client of it."""
    stop = stop or asyncio.Event()
    server_options = ServerOptions(
        models=models or (ModelConfig(name="m", base_path=base_path),),
        port=0,
        rest_port=rest_port,
        lifecycle=lifecycle,
        batching=batching or BatchingOptions(),
        **options,
    )
    started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(server_options, load, stop=stop, started=started.set_result))
    await asyncio.wait((task, started), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        running = started.result()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
            yield Client(channel, running)
    finally:
        stop.set()
        await task


Serving = Callable[..., AbstractAsyncContextManager[Client]]


async def error_of(answer: Any) -> tuple[grpc.StatusCode, str]:
    """The code and text with which a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer
    return caught.value.code(), caught.value.details() or ""
