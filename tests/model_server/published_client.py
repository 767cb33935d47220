"""Asks a server through TensorFlow Serving's published stubs: `python published_client.py ADDRESS SOCKET MODELS`.

A process of its own: the stubs import all of TensorFlow, with messages that must not meet ours in one process. It
prints "ok" when every answer is right; MODELS is the base path of the graph of examples.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import wrappers_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

TIMEOUT_S = 20


def predict(stub: Any, name: str = "examples", **spec: Any) -> Any:
    request = predict_pb2.PredictRequest(output_filter=["y"])
    request.model_spec.name = name
    if "label" in spec:
        request.model_spec.version_label = spec["label"]
    if "version" in spec:
        request.model_spec.version.CopyFrom(wrappers_pb2.Int64Value(value=spec["version"]))
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.arange(100, dtype=np.float32)[:, None]))
    return stub.Predict(request, timeout=TIMEOUT_S)


def check_predict(stub: Any) -> None:
    for spec in ({}, {"version": 123}, {"label": "stable"}):
        response = predict(stub, **spec)
        np.testing.assert_array_equal(tf.make_ndarray(response.outputs["y"])[:, 0], np.arange(100) / 2 + 2)
        assert (response.model_spec.version.value, response.model_spec.signature_name) == (123, "serving_default")
    try:
        predict(stub, label="canary")
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details() == "Unrecognized servable version label: canary"
    else:
        raise AssertionError("an unknown label was answered")


def check_examples(stub: Any) -> None:
    classify, regress = classification_pb2.ClassificationRequest(), regression_pb2.RegressionRequest()
    multi = inference_pb2.MultiInferenceRequest()
    for request, name in ((classify, "classify_x_to_y"), (regress, "regress_x_to_y")):
        request.model_spec.name, request.model_spec.signature_name = "examples", name
        task = multi.tasks.add(method_name=f"tensorflow/serving/{name.partition('_')[0]}")
        task.model_spec.CopyFrom(request.model_spec)
    for request in (classify, regress, multi):
        request.input.example_list.examples.add().features.feature["x"].float_list.value.append(2.0)
    assert stub.Classify(classify, timeout=TIMEOUT_S).result.classifications[0].classes[0].score == 3.0
    assert stub.Regress(regress, timeout=TIMEOUT_S).result.regressions[0].value == 3.0
    first, second = stub.MultiInference(multi, timeout=TIMEOUT_S).results
    assert first.classification_result.classifications[0].classes[0].score == 3.0
    assert second.regression_result.regressions[0].value == 3.0


def check_metadata_and_status(stub: Any, models: Any) -> None:
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "examples"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert stub.GetModelMetadata(metadata, timeout=TIMEOUT_S).metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["classify_x_to_y"].inputs["inputs"].dtype == tf.string.as_datatype_enum
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "examples"
    answer = models.GetModelStatus(status, timeout=TIMEOUT_S)
    assert answer.model_version_status[0].state == get_model_status_pb2.ModelVersionStatus.AVAILABLE


def check_reload(stub: Any, models: Any, base_path: str) -> None:
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(name="renamed", base_path=base_path, model_platform="tensorflow")
    request = model_management_pb2.ReloadConfigRequest(config=config)
    assert models.HandleReloadConfigRequest(request, timeout=TIMEOUT_S).status.error_code == 0
    assert predict(stub, "renamed").model_spec.name == "renamed"


def main(address: str, socket: str, base_path: str) -> None:
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        check_predict(prediction_service_pb2_grpc.PredictionServiceStub(channel))
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        check_predict(stub)
        check_examples(stub)
        check_metadata_and_status(stub, models)
        check_reload(stub, models, base_path)
    sys.stdout.write("ok\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
