"""REST, on the paths and in the JSON of the real server."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.model_server.conftest import serving

Ask = Callable[..., Any]


@pytest.fixture
async def ask(publish: Callable[..., Path]) -> AsyncIterator[Ask]:
    """GETs a path, or POSTs a JSON value or bytes to it: status and JSON."""
    async with serving(publish(3).parent, rest_port=0) as client:

        def fetch(path: str, body: Any = None) -> tuple[int, Any]:
            data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
            url = f"http://127.0.0.1:{client.running.rest_port}{path}"
            try:
                with urllib.request.urlopen(url, data, timeout=20) as response:
                    return response.status, json.load(response)
            except urllib.error.HTTPError as error:
                return error.code, json.load(error)

        async def ask(path: str, body: Any = None) -> tuple[int, Any]:
            return await asyncio.to_thread(fetch, path, body)

        yield ask


@pytest.mark.parametrize("path", ["/v1/models/m", "/v1/models/m/versions/3"])
async def test_status(ask: Ask, path: str) -> None:
    status = {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert await ask(path) == (200, {"model_version_status": [status]})


async def test_metadata(ask: Ask) -> None:
    code, answer = await ask("/v1/models/m/metadata")
    assert code == 200
    assert answer["model_spec"] == {"name": "m", "signature_name": "", "version": "3"}
    inputs = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert inputs["x"]["dtype"] == "DT_FLOAT"


async def test_rows(ask: Ask) -> None:
    code, answer = await ask("/v1/models/m:predict", {"instances": [1.0, 2, 0.4]})
    assert (code, answer) == (
        200,
        {"predictions": [{"n": 1, "y": 2.5}, {"n": 2, "y": 3.0}, {"n": 0, "y": 2.2}]},
    )


async def test_one_output_stands_without_its_name(ask: Ask) -> None:
    body = {
        "signature_name": "gather",
        "instances": [{"index": [0, 1], "weight": [1.0]}, {"index": [2, 2], "weight": [0.5]}],
    }
    assert await ask("/v1/models/m/versions/3:predict", body) == (200, {"predictions": [10.0, 20.0]})


async def test_columns(ask: Ask) -> None:
    body = {"signature_name": "lookup", "inputs": {"ids": [["apple", {"b64": base64.b64encode(b"pear").decode()}]]}}
    assert await ask("/v1/models/m:predict", body) == (
        200,
        {"outputs": {"ids": [["apple", "pear"]], "index": [[1, 2]]}},
    )


async def test_a_scalar_goes_in_columns(ask: Ask) -> None:
    assert await ask("/v1/models/m:predict", {"signature_name": "scalar", "inputs": 3}) == (200, {"outputs": 3.5})
    body = {"signature_name": "lookup", "inputs": "apple"}  # shapes are not checked
    assert await ask("/v1/models/m:predict", body) == (200, {"outputs": {"ids": "apple", "index": 1}})


@pytest.mark.parametrize(
    ("path", "body", "code", "text"),
    [
        ("/v1/models/n", None, 404, "Could not find any versions of model n"),
        ("/v1/models/m/versions/9", None, 404, "Could not find version 9 of model m"),
        ("/v1/models/n/metadata", None, 404, "Servable not found for request: Latest(n)"),
        ("/v1/models", None, 400, "Missing model name in request."),
        ("/v1/models/m:predict", None, 400, "Malformed request: GET /v1/models/m:predict"),
        ("/v1/models/m/other", None, 400, "Malformed request: GET /v1/models/m/other"),
        ("/v1/models/m", {}, 400, "Malformed request: POST /v1/models/m"),
        ("/v1/models/m/versions/99999999999999999999", None, 400, "Failed to convert version: 99999999999999999999 to"),
    ],
)
async def test_what_is_wrong_with_a_path_is_told(ask: Ask, path: str, body: Any, code: int, text: str) -> None:
    status, answer = await ask(path, body)
    assert (status, list(answer)) == (code, ["error"])
    assert text in answer["error"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"{", "JSON Parse error: Missing a name for object member. at offset: 1"),
        (b"[" * 100_000, "JSON Parse error"),
        ([1.0], "JSON Value: [\n    1.0\n] Is not object"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"inputs": 1, "instances": [1]}, "expecting only one of 'inputs' or 'instances' keys to exist"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": 1}, "Excepting 'instances' to be an list/array"),
        (
            {"instances": ["one"]},
            "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
            'JSON Value: "one" Type: String is not of expected type: float',
        ),
        ({"instances": [True]}, "JSON Value: true Type: True is not of expected type: float"),
        ({"instances": [1 << 24]}, "Cannot convert JSON value: 16777216 to float without loss of precision."),
        (
            {"instances": [1, [2]]},
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting ",
        ),
        ({"instances": [[1, [2]]]}, "Encountered list at unexpected level: 1 expected < 1"),
        ({"instances": [[[1], 2]]}, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ({"inputs": [[1], [2, 3]]}, "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        ({"signature_name": "lookup", "instances": [["\ud800"]]}, "The surrogate pair in string is invalid."),
        ({"signature_name": "\ud800", "instances": [1]}, "The surrogate pair in string is invalid."),
        ({"instances": [10**400]}, "to float without loss of precision."),
        (
            {"instances": [{"z": 1}]},
            "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: "
            "JSON object: does not have named input: z",
        ),
        ({"instances": [{"x": 1}, 2]}, "Expecting object but got list at item 1 of input list"),
        ({"instances": [1, {"x": 2}]}, "Expecting value/list but got object at item 1 of input list"),
        ({"instances": [{"x": 1}, {}]}, "JSON object: {} must only have keys: x"),
        ({"signature_name": 1, "instances": [1]}, "'signature_name' key must be a string value."),
        ({"signature_name": "s", "instances": [1]}, 'Serving signature name: "s" not found in signature def'),
        ({"signature_name": "gather", "instances": [1]}, "instances is a plain list, but expecting list of objects"),
        ({"signature_name": "gather", "inputs": 1}, "inputs is a plain value/list, but expecting an object"),
        ({"signature_name": "gather", "inputs": {"index": [[1]]}}, "Missing named input: weight in 'inputs' object."),
        (
            {"signature_name": "gather", "inputs": {"index": [[1 << 70]], "weight": [[1.0]]}},
            "Type: Number is not of expected type: int64",
        ),
        ({"signature_name": "lookup", "inputs": [[{"b64": "?"}]]}, "Unable to base64 decode"),
        ({"signature_name": "lookup", "inputs": [[{"b": "?"}]]}, "not formatted correctly for base64 data"),
    ],
)
async def test_what_is_wrong_with_a_body_is_told(ask: Ask, body: Any, text: str) -> None:
    status, answer = await ask("/v1/models/m:predict", body)
    assert (status, list(answer)) == (400, ["error"])
    assert text in answer["error"]
