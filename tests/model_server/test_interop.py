"""TensorFlow Serving's own published client works unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.model_server.conftest import serving


def talk(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.arange(100, dtype=np.float32)))
        y = tf.make_ndarray(prediction.Predict(request, timeout=20).outputs["y"])
        np.testing.assert_allclose(y, np.arange(100) / 2 + 2, rtol=1e-6)

        request.model_spec.signature_name = "lookup"
        del request.inputs["x"]
        request.inputs["ids"].CopyFrom(tf.make_tensor_proto([["pear", "?"]]))
        assert tf.make_ndarray(prediction.Predict(request, timeout=20).outputs["index"]).tolist() == [[2, 0]]

        metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        metadata.model_spec.name = "m"
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert prediction.GetModelMetadata(metadata, timeout=20).metadata["signature_def"].Unpack(signatures)
        assert signatures.signature_def["lookup"].inputs["ids"].dtype == tf.string.as_datatype_enum

        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "m"
        answer = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status, timeout=20)
        assert answer.model_version_status[0].state == get_model_status_pb2.ModelVersionStatus.AVAILABLE


async def test_the_published_stubs_work(publish: Callable[..., Path]) -> None:
    async with serving(publish(1).parent) as client:
        await asyncio.to_thread(talk, client.running.port)
