"""Classify, Regress and MultiInference on the wire, over gRPC and REST."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from longtail.tfserving import message_class
from tests.model_server.conftest import PREDICTION_SERVICE, Client, error_of, predict_request, serving

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


@pytest.fixture
async def client(model_of_examples: Path) -> AsyncIterator[Client]:
    async with serving(model_of_examples, rest_port=0) as client:
        yield client


def fill(request: Any, values: tuple[float, ...]) -> Any:
    for value in values:
        request.input.example_list.examples.add().features.feature["x"].float_list.value.append(value)
    return request


def inference(kind: str, signature: str, *values: float, name: str = "m") -> Any:
    request = fill(message_class(f"tensorflow.serving.{kind}Request")(), values)
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    return request


def multi_inference(*tasks: tuple[str, str], values: tuple[float, ...] = (2.0,), name: str = "m") -> Any:
    request = fill(message_class("tensorflow.serving.MultiInferenceRequest")(), values)
    for signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name = name
        task.model_spec.signature_name = signature
    return request


async def test_classify_answers_scores(client: Client) -> None:
    request = inference("Classification", "classify_x_to_y", 2.0, 4.0)
    response = await client.call(PREDICTION_SERVICE, "Classify", request)
    scores = [[each.score for each in example.classes] for example in response.result.classifications]
    assert scores == [[3.0], [4.0]]
    spec = response.model_spec
    assert (spec.name, spec.signature_name, spec.version.value) == ("m", "classify_x_to_y", 123)


async def test_classify_answers_labels(client: Client) -> None:
    response = await client.call(PREDICTION_SERVICE, "Classify", inference("Classification", "classify_labels", 5.0))
    (example,) = response.result.classifications
    assert [(each.label, each.score) for each in example.classes] == [("low", 5.0), ("high", 5.0)]


async def test_regress_answers_values(client: Client) -> None:
    response = await client.call(PREDICTION_SERVICE, "Regress", inference("Regression", "regress_x_to_y2", 2.0, 4.0))
    assert [each.value for each in response.result.regressions] == [4.0, 6.0]
    assert response.model_spec.signature_name == "regress_x_to_y2"


async def test_the_context_comes_before_each_example(client: Client) -> None:
    request = inference("Regression", "regress_x_to_y")
    listed = request.input.example_list_with_context
    listed.context.features.feature["x"].float_list.value.append(8.0)
    listed.examples.add()
    response = await client.call(PREDICTION_SERVICE, "Regress", request)
    assert [each.value for each in response.result.regressions] == [6.0]


async def test_multi_inference_answers_every_task_of_one_run(client: Client) -> None:
    request = multi_inference(
        ("regress_x_to_y", REGRESS), ("classify_x_to_y", CLASSIFY), ("regress_x_to_y2", REGRESS), values=(2.0, 4.0)
    )
    response = await client.call(PREDICTION_SERVICE, "MultiInference", request)
    first, second, third = response.results
    assert [each.value for each in first.regression_result.regressions] == [3.0, 4.0]
    assert [each.classes[0].score for each in second.classification_result.classifications] == [3.0, 4.0]
    assert [each.value for each in third.regression_result.regressions] == [4.0, 6.0]
    specs = [(each.model_spec.signature_name, each.model_spec.version.value) for each in response.results]
    assert specs == [("regress_x_to_y", 123), ("classify_x_to_y", 123), ("regress_x_to_y2", 123)]


INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("method", "request_", "code", "text"),
    [
        ("Classify", inference("Classification", "s", 1.0), INVALID, "No signature was found with the name: s"),
        (
            "Classify",
            inference("Classification", "", 1.0),
            INVALID,
            "Expected classification signature method_name to be tensorflow/serving/classify. "
            "Was: tensorflow/serving/predict",
        ),
        (
            "Regress",
            inference("Regression", "classify_x_to_y", 1.0),
            INVALID,
            "Expected regression signature method_name to be tensorflow/serving/regress. "
            "Was: tensorflow/serving/classify",
        ),
        ("Classify", inference("Classification", "classify_x_to_y"), INVALID, "Input is empty."),
        ("Regress", inference("Regression", "regress_x_to_y"), INVALID, "Input is empty."),
        (
            "Classify",
            inference("Classification", "classify_unequal", 1.0),
            INVALID,
            "Tensors class and score should match in dim_size(1). Got 2 vs. 1",
        ),
        (
            "Regress",
            inference("Regression", "regress_wide", 1.0, 2.0),
            INVALID,
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]",
        ),
        (
            "Regress",
            inference("Regression", "regress_floats", 1.0),
            INVALID,
            "Expects arg[0] to be float but string is provided",
        ),
        (
            "Regress",
            inference("Regression", "regress_misnamed", 1.0),
            PRECONDITION,
            "No regression inputs found in SignatureDef: regress_misnamed",
        ),
        (
            "Regress",
            inference("Regression", "regress_x_to_y", 1.0, name="n"),
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Latest(n)",
        ),
        ("Classify", message_class("tensorflow.serving.ClassificationRequest")(), INVALID, "Missing ModelSpec"),
        ("MultiInference", multi_inference(), INVALID, "ModelSpec has no name specified."),
        (
            "MultiInference",
            multi_inference(("regress_x_to_y", REGRESS), ("regress_x_to_y", REGRESS)),
            INVALID,
            "Duplicate evaluation of signature: regress_x_to_y",
        ),
        (
            "MultiInference",
            multi_inference(("s", REGRESS)),
            INVALID,
            "Requested signature not found in model graph: s",
        ),
        (
            "MultiInference",
            multi_inference(("regress_x_to_y", "tensorflow/serving/predict")),
            grpc.StatusCode.UNIMPLEMENTED,
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
        (
            "MultiInference",
            multi_inference(("regress_x_to_y", REGRESS), ("regress_floats", REGRESS)),
            INVALID,
            "Input tensor must be the same for all Signatures.",
        ),
        (
            "Predict",
            predict_request({"inputs": ["a"]}, signature="other_method"),
            grpc.StatusCode.INTERNAL,
            "Expected prediction signature method_name to be one of {tensorflow/serving/predict, "
            "tensorflow/serving/classify, tensorflow/serving/regress}. Was: tensorflow/serving/other",
        ),
    ],
)
async def test_what_is_wrong_is_told(
    client: Client, method: str, request_: Any, code: grpc.StatusCode, text: str
) -> None:
    assert await error_of(client.call(PREDICTION_SERVICE, method, request_)) == (code, text)


async def test_tasks_of_two_models_are_refused(client: Client) -> None:
    request = multi_inference(("regress_x_to_y", REGRESS), ("regress_x_to_y2", REGRESS))
    request.tasks[1].model_spec.name = "n"
    assert await error_of(client.call(PREDICTION_SERVICE, "MultiInference", request)) == (
        INVALID,
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
    )


async def test_an_example_that_does_not_parse_is_the_graphs_error(client: Client) -> None:
    request = inference("Regression", "regress_x_to_y")
    request.input.example_list.examples.add()
    code, text = await error_of(client.call(PREDICTION_SERVICE, "Regress", request))
    assert code is INVALID
    assert "Feature: x (data type: float) is required but could not be found." in text


async def test_the_method_name_can_go_unchecked(model_of_examples: Path) -> None:
    async with serving(model_of_examples, checks_method_name=False) as client:
        response = await client.call(PREDICTION_SERVICE, "Regress", inference("Regression", "other_method", 2.0))
        assert [each.value for each in response.result.regressions] == [3.0]
        request = predict_request({}, signature="other_method")
        request.inputs["inputs"].dtype = 7
        request.inputs["inputs"].tensor_shape.dim.add(size=0)
        assert list((await client.predict(request)).outputs["outputs"].float_val) == []


async def ask(client: Client, path: str, body: Any) -> tuple[int, Any]:
    def fetch() -> tuple[int, Any]:
        url = f"http://127.0.0.1:{client.running.rest_port}/v1/models/m{path}"
        try:
            with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=20) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    return await asyncio.to_thread(fetch)


async def test_classify_over_rest(client: Client) -> None:
    body: Any = {"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}, {"x": [4.0]}]}
    assert await ask(client, ":classify", body) == (200, {"results": [[["", 3.0]], [["", 4.0]]]})
    body = {"signature_name": "classify_labels", "context": {"x": 7.0}, "examples": [{}]}
    assert await ask(client, "/versions/123:classify", body) == (200, {"results": [[["low", 7.0], ["high", 7.0]]]})


async def test_regress_over_rest(client: Client) -> None:
    body = {"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}, {"x": 3.0}]}
    assert await ask(client, ":regress", body) == (200, {"results": [3.0, 3.5]})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
        ({"examples": [{"x": [[1.0]]}]}, "Feature: x has element with unexpected JSON type: Array"),
        ({"examples": [{"x": [1.0, "a"]}]}, "Unexpected element type in feature: x expecting type: float"),
        ({"examples": [{"x": 1 << 63}]}, "Feature: x has uint64 element. Only int64 is supported."),
        ({"examples": [{"x": {"b64": "?"}}]}, "Unable to base64 decode"),
        ({"examples": [{"x": 1.0}], "signature_name": "s"}, "No signature was found with the name: s"),
    ],
)
async def test_what_is_wrong_is_told_over_rest(client: Client, body: Any, text: str) -> None:
    code, answer = await ask(client, ":classify", body)
    assert code == 400
    assert text in answer["error"]
