"""Predict, GetModelMetadata and GetModelStatus over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from longtail.tfserving import message_class
from serving.model_server.tensors import TensorProto
from tests.model_server.conftest import (
    MODEL_SERVICE,
    PREDICTION_SERVICE,
    Client,
    error_of,
    predict_request,
    serving,
)

NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT

GetModelMetadataRequest = message_class("tensorflow.serving.GetModelMetadataRequest")
GetModelStatusRequest = message_class("tensorflow.serving.GetModelStatusRequest")


@pytest.fixture
async def client(publish: Callable[..., Path]) -> AsyncIterator[Client]:
    async with serving(publish(3).parent) as client:
        yield client


async def test_half_plus_two(client: Client) -> None:
    response = await client.predict(predict_request({"x": [1.0, 2.0, 5.0]}))
    assert list(response.outputs["y"].float_val) == [2.5, 3.0, 4.5]
    assert list(response.outputs["n"].int64_val) == [1, 2, 5]
    assert response.outputs["y"].tensor_content == b""


async def test_the_answer_names_the_signature_and_the_version_it_came_from(client: Client) -> None:
    spec = (await client.predict(predict_request({"x": [1.0]}))).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 3, "serving_default")


async def test_strings_are_looked_up_in_the_graph(client: Client) -> None:
    request = predict_request({"ids": [["apple", "pear", "durian"]]}, signature="lookup")
    response = await client.predict(request)
    assert list(response.outputs["index"].int64_val) == [1, 2, 0]
    assert list(response.outputs["ids"].string_val) == [b"apple", b"pear", b"durian"]
    assert [dim.size for dim in response.outputs["index"].tensor_shape.dim] == [1, 3]


async def test_the_filter_leaves_out_other_outputs(client: Client) -> None:
    response = await client.predict(predict_request({"x": [1.0]}, outputs=("n",)))
    assert list(response.outputs) == ["n"]


async def test_an_empty_request_has_an_empty_answer(client: Client) -> None:
    response = await client.predict(predict_request({"x": np.zeros(0, np.float32)}))
    assert [dim.size for dim in response.outputs["y"].tensor_shape.dim] == [0]


async def test_a_scalar_signature_works(client: Client) -> None:
    response = await client.predict(predict_request({"x": np.float32(3).reshape(())}, signature="scalar"))
    assert list(response.outputs["y"].float_val) == [3.5]
    assert not response.outputs["y"].tensor_shape.dim


async def test_tensor_content_and_values_say_the_same(client: Client) -> None:
    request = predict_request({"x": [7.0]})
    request.inputs["x"].CopyFrom(TensorProto(dtype=1, tensor_shape={"dim": [{"size": 2}]}, float_val=[4.0]))
    assert list((await client.predict(request)).outputs["y"].float_val) == [4.0, 4.0]


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        pytest.param(lambda r: r.ClearField("model_spec"), INVALID, "Missing ModelSpec", id="no spec"),
        pytest.param(
            lambda r: setattr(r.model_spec, "name", ""), INVALID, "ModelSpec has no name specified.", id="no name"
        ),
        pytest.param(
            lambda r: setattr(r.model_spec, "name", "n"),
            NOT_FOUND,
            "Servable not found for request: Latest(n)",
            id="another model",
        ),
        pytest.param(
            lambda r: setattr(r.model_spec.version, "value", 9),
            NOT_FOUND,
            "Servable not found for request: Specific(m, 9)",
            id="another version",
        ),
        pytest.param(
            lambda r: setattr(r.model_spec, "version_label", "l"),
            INVALID,
            "Unrecognized servable version label: l",
            id="a label",
        ),
        pytest.param(
            lambda r: setattr(r.model_spec, "signature_name", "s"),
            grpc.StatusCode.FAILED_PRECONDITION,
            'Serving signature key "s" not found.',
            id="another signature",
        ),
    ],
)
async def test_what_is_not_there_is_refused(
    client: Client, change: Callable[[Any], None], code: grpc.StatusCode, text: str
) -> None:
    request = predict_request({"x": [1.0]})
    change(request)
    assert await error_of(client.predict(request)) == (code, text)


async def test_a_version_may_be_asked_for(client: Client) -> None:
    assert await client.y([1.0], version=3) == [2.5]


async def test_an_index_out_of_range_is_the_callers_fault(client: Client) -> None:
    request = predict_request(
        {"index": np.array([[0, 200]], np.int64), "weight": np.ones((1, 1), np.float32)}, signature="gather"
    )
    code, text = await error_of(client.predict(request))
    assert code is INVALID
    assert "= 200 is not in [0, 3)" in text


async def test_inputs_of_different_length_are_left_to_the_model(client: Client) -> None:
    inputs = {"index": np.array([[0, 1]], np.int64), "weight": np.array([[1], [2], [3]], np.float32)}
    response = await client.predict(predict_request(inputs, signature="gather"))
    assert list(response.outputs["score"].float_val) == [10.0, 20.0, 30.0]


async def test_a_long_error_is_shortened(client: Client) -> None:
    _, text = await error_of(client.predict(predict_request({"x": [1.0]}, signature="s" * 100_000)))
    assert text.endswith("...TRUNCATED")


async def test_a_model_that_needs_xla_fails_as_on_the_real_server(client: Client) -> None:
    code, text = await error_of(client.predict(predict_request({"x": [1.0]}, signature="compiled")))
    assert code is grpc.StatusCode.INTERNAL
    assert text.startswith("XLA compilation disabled")


async def test_concurrent_requests_get_their_own_answers(client: Client) -> None:
    answers = await asyncio.gather(*(client.y([float(i)] * (i % 5)) for i in range(100)))
    assert answers == [[i / 2 + 2] * (i % 5) for i in range(100)]


async def test_a_bad_request_among_good_ones_fails_alone(client: Client) -> None:
    def score(index: int) -> Any:
        inputs = {"index": np.array([[index]], np.int64), "weight": np.ones((1, 1), np.float32)}
        return client.predict(predict_request(inputs, signature="gather"))

    answers = await asyncio.gather(*(score(i) for i in [0, 1, 2, 3, 1, 2]), return_exceptions=True)
    scores = [
        answer if isinstance(answer, BaseException) else answer.outputs["score"].float_val[0] for answer in answers
    ]
    assert isinstance(scores.pop(3), grpc.aio.AioRpcError)
    assert scores == [0, 10, 20, 10, 20]


async def test_metadata_has_the_signatures(client: Client) -> None:
    request = GetModelMetadataRequest(model_spec={"name": "m"}, metadata_field=["signature_def"])
    response = await client.call(PREDICTION_SERVICE, "GetModelMetadata", request)
    assert (response.model_spec.name, response.model_spec.version.value) == ("m", 3)
    assert response.model_spec.signature_name == ""
    signatures = message_class("tensorflow.serving.SignatureDefMap")()
    assert response.metadata["signature_def"].Unpack(signatures)
    half = signatures.signature_def["serving_default"]
    assert half.inputs["x"].dtype == 1
    assert [dim.size for dim in half.outputs["y"].tensor_shape.dim] == [-1]


@pytest.mark.parametrize(
    ("request_fields", "code", "text"),
    [
        ({"metadata_field": ["signature_def"]}, INVALID, "Missing ModelSpec"),
        ({"model_spec": {"name": "m"}}, INVALID, "GetModelMetadataRequest must specify at least one metadata_field"),
        (
            {"model_spec": {"name": "m"}, "metadata_field": ["foo"]},
            INVALID,
            "Metadata field foo is not supported",
        ),
        (
            {"model_spec": {"name": "n"}, "metadata_field": ["signature_def"]},
            NOT_FOUND,
            "Servable not found for request: Latest(n)",
        ),
    ],
)
async def test_metadata_asked_for_wrongly_is_refused(
    client: Client, request_fields: dict[str, Any], code: grpc.StatusCode, text: str
) -> None:
    request = GetModelMetadataRequest(**request_fields)
    assert await error_of(client.call(PREDICTION_SERVICE, "GetModelMetadata", request)) == (code, text)


async def test_status_is_available(client: Client) -> None:
    status = (await client.states())[3]
    assert (status.state, status.status.error_code, status.status.error_message) == (30, 0, "")


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        ({}, INVALID, "Missing ModelSpec"),
        ({"model_spec": {"name": "n"}}, NOT_FOUND, "Could not find any versions of model n"),
        ({"model_spec": {"name": "m", "version": {"value": 9}}}, NOT_FOUND, "Could not find version 9 of model m"),
    ],
)
async def test_the_status_of_what_is_not_there_is_refused(
    client: Client, spec: dict[str, Any], code: grpc.StatusCode, text: str
) -> None:
    assert await error_of(client.call(MODEL_SERVICE, "GetModelStatus", GetModelStatusRequest(**spec))) == (code, text)


async def test_health_says_serving(client: Client) -> None:
    stub = health_pb2_grpc.HealthStub(client.channel)
    for name in ("", PREDICTION_SERVICE, MODEL_SERVICE):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_and_describes_the_services(client: Client) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)

    def requests() -> Iterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        for name in (PREDICTION_SERVICE, "grpc.health.v1.Health"):
            yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)

    listed, *described = [answer async for answer in stub.ServerReflectionInfo(requests(), timeout=20)]
    assert PREDICTION_SERVICE in {entry.name for entry in listed.list_services_response.service}
    assert all(answer.file_descriptor_response.file_descriptor_proto for answer in described)
