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


@pytest.mark.parametrize(
    ("path", "body", "code", "text"),
    [
        ("/v1/models/n", None, 404, "Could not find any versions of model n"),
        ("/v1/models/m/versions/9", None, 404, "Could not find version 9 of model m"),
        ("/v1/models/n/metadata", None, 404, "Servable not found for request: Latest(n)"),
        ("/v1/models/m/versions/9:predict", {"instances": [1]}, 404, "Specific(m, 9)"),
        ("/v1/models/m/labels/l:predict", {"instances": [1]}, 400, "Unrecognized servable version label: l"),
        ("/v2/models/m", None, 400, "Malformed request: GET /v2/models/m"),
        ("/v1/models/m:predict", b"{", 400, "JSON Parse error"),
        ("/v1/models/m:predict", b"[" * 100_000, 400, "JSON Parse error"),
        ("/v1/models/m:predict", [1.0], 400, "not an object"),
        ("/v1/models/m:predict", {}, 400, "'instances' (rows) and 'inputs' (columns)"),
        ("/v1/models/m:predict", {"instances": []}, 400, "at least one row"),
        ("/v1/models/m:predict", {"instances": ["one"]}, 400, "is not of expected type: float"),
        ("/v1/models/m:predict", {"instances": [True]}, 400, "is not of expected type: float"),
        ("/v1/models/m:predict", {"instances": [1, [2]]}, 400, "differ in size or depth"),
        ("/v1/models/m:predict", {"signature_name": "lookup", "instances": [["\ud800"]]}, 400, "does not fit string"),
        ("/v1/models/m:predict", {"instances": [{"z": 1}]}, 400, "does not have named input: z"),
        ("/v1/models/m:predict", {"instances": [{"x": 1}, {"z": 1}]}, 400, "must name the same inputs"),
        ("/v1/models/m:predict", {"signature_name": 1, "instances": [1]}, 400, "must be a string"),
        ("/v1/models/m:predict", {"signature_name": "s", "instances": [1]}, 412, 'Serving signature key "s" not found'),
        ("/v1/models/m:predict", {"signature_name": "gather", "instances": [1]}, 400, "must be named"),
        (
            "/v1/models/m:predict",
            {"signature_name": "gather", "inputs": {"index": [[1 << 70]], "weight": [[1.0]]}},
            400,
            "does not fit int64",
        ),
        ("/v1/models/m:predict", {"signature_name": "scalar", "instances": 1}, 400, "at least one row"),
    ],
)
async def test_what_is_wrong_is_told(ask: Ask, path: str, body: Any, code: int, text: str) -> None:
    status, answer = await ask(path, body)
    assert (status, list(answer)) == (code, ["error"])
    assert text in answer["error"]
