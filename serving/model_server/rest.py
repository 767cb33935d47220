"""REST: status, metadata, predict, classify and regress, on the paths and with the answers of the real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import grpc
import uvicorn
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from longtail.tfserving import message_class
from serving.model_server import deadlines, rest_examples, rest_json, rest_tensors, tensors
from serving.model_server.api import SIGNATURE_DEF, ModelApi, SignatureDefMap
from serving.model_server.errors import ServingError, invalid_argument
from serving.model_server.listening import listening_socket
from serving.model_server.metrics import Metrics

log = logging.getLogger(__name__)
logging.getLogger("uvicorn").setLevel(logging.WARNING)  # its start and stop lines say nothing that ours do not

PredictRequest = message_class("tensorflow.serving.PredictRequest")
ClassificationRequest = message_class("tensorflow.serving.ClassificationRequest")
RegressionRequest = message_class("tensorflow.serving.RegressionRequest")
GetModelMetadataRequest = message_class("tensorflow.serving.GetModelMetadataRequest")
GetModelStatusRequest = message_class("tensorflow.serving.GetModelStatusRequest")

_MODEL: Final = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST: Final = re.compile(rf"/v1/models/(?P<name>[^/:]+){_MODEL}:(?P<method>classify|regress|predict)", re.IGNORECASE)
_GET: Final = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_MODEL}(?:/(?P<method>metadata))?", re.IGNORECASE)
_MAX_INT64: Final = (1 << 63) - 1
_HTTP_STATUS: Final = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}
_CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


@dataclass(frozen=True, kw_only=True)
class RestOptions:
    """How REST answers. `metrics_path` None is no metrics."""

    timeout_s: float = 30.0
    allows_cors: bool = False
    metrics_path: str | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a path asks of which model; "" is not said."""

    name: str
    version: int | None
    label: str
    method: str


class _Server(uvicorn.Server):
    """Leaves signals to the one who runs the server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(application: Starlette, host: str, port: int) -> AsyncIterator[int]:
    """Serves REST while the block runs and yields the port. Raises StartError."""
    with contextlib.closing(listening_socket(host, port, "--rest_api_port")) as listening:
        config = uvicorn.Config(application, log_config=None, access_log=False, lifespan="off")
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield int(listening.getsockname()[1])
        finally:
            server.should_exit = True
            await task


class RestApi:
    """The methods, from a path and a body to JSON."""

    def __init__(self, api: ModelApi, metrics: Metrics) -> None:
        self._api = api
        self._metrics = metrics
        self._posts: Mapping[str, Callable[[Asked, bytes], Awaitable[str]]] = {
            "predict": self._predict,
            "classify": self._classify,
            "regress": self._regress,
        }

    async def answer(self, http_method: str, path: str, body: bytes) -> str:
        """The JSON answer. Raises ServingError."""
        asked = _parse(http_method, path)
        if http_method == "POST":
            with self._metrics.request(asked.name, asked.method.capitalize(), "REST"):
                return await self._posts[asked.method](asked, body)
        if not asked.name:
            raise invalid_argument("Missing model name in request.")
        return await (self._metadata(asked) if asked.method else self._status(asked))

    async def _predict(self, asked: Asked, body: bytes) -> str:
        message = _with_spec(PredictRequest(), asked)
        with self._api.find(message).lease() as servable:
            as_rows = rest_tensors.fill_request(message, body, servable.signatures)
            response = await self._api.predict(message)
        outputs = {alias: tensors.decode(response.outputs[alias]) for alias in sorted(response.outputs)}
        return rest_json.rows(outputs) if as_rows else rest_json.columns(outputs)

    async def _classify(self, asked: Asked, body: bytes) -> str:
        message = _with_spec(ClassificationRequest(), asked)
        rest_examples.fill_request(message, body)
        return rest_examples.classification_json((await self._api.classify(message)).result)

    async def _regress(self, asked: Asked, body: bytes) -> str:
        message = _with_spec(RegressionRequest(), asked)
        rest_examples.fill_request(message, body)
        return rest_examples.regression_json((await self._api.regress(message)).result)

    async def _status(self, asked: Asked) -> str:
        return _dumps(_as_dict(await self._api.get_model_status(_with_spec(GetModelStatusRequest(), asked))))

    async def _metadata(self, asked: Asked) -> str:
        message = _with_spec(GetModelMetadataRequest(metadata_field=[SIGNATURE_DEF]), asked)
        response = await self._api.get_model_metadata(message)
        definitions = SignatureDefMap()
        response.metadata[SIGNATURE_DEF].Unpack(definitions)
        spec = _as_dict(response.model_spec)
        return _dumps({"model_spec": spec, "metadata": {SIGNATURE_DEF: _as_dict(definitions)}})


def application(api: ModelApi, metrics: Metrics, options: RestOptions) -> Starlette:
    """The ASGI application."""
    rest = RestApi(api, metrics)
    headers = _CORS if options.allows_cors else {}

    async def respond(request: Request) -> Response:
        path = request.scope.get("raw_path", b"").partition(b"?")[0].decode("latin-1") or request.url.path
        if path == options.metrics_path:
            return Response(metrics.page(), media_type="text/plain")
        if not path.lower().startswith("/v1/"):
            return Response("<html><body>404 Not Found</body></html>", 404, media_type="text/html")
        if request.method == "OPTIONS" and options.allows_cors:
            return Response("", headers=headers, media_type="application/json")
        status, text = await _outcome(rest, request, path, options.timeout_s)
        return Response(text, status, headers=headers, media_type="application/json")

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        await (await respond(Request(scope, receive, send)))(scope, receive, send)

    # An ASGI endpoint takes every HTTP method; a function would take GET alone.
    return Starlette(routes=[Route("/{path:path}", _Endpoint(endpoint))])


class _Endpoint:
    """An ASGI application that Starlette does not take for a view function."""

    def __init__(self, endpoint: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._endpoint(scope, receive, send)


async def _outcome(rest: RestApi, request: Request, path: str, timeout_s: float) -> tuple[int, str]:
    try:
        body = await request.body()
        left_s = timeout_s if timeout_s > 0 else None
        deadlines.set_time_left(left_s)
        async with asyncio.timeout(left_s):
            return 200, await rest.answer(request.method, path, body)
    except ServingError as error:
        return _HTTP_STATUS.get(error.code, 500), _dumps({"error": error.message})
    except TimeoutError:
        return 504, _dumps({"error": "Timed out waiting for notification"})
    except Exception as error:
        log.exception("unexpected failure in %s %s", request.method, path)
        return 500, _dumps({"error": f"unexpected {type(error).__name__}: {error}"})


def _parse(http_method: str, path: str) -> Asked:
    """What a request asks for. Raises ServingError."""
    pattern = {"POST": _POST, "GET": _GET}.get(http_method)
    match = pattern.fullmatch(path) if pattern else None
    if match is None:
        raise invalid_argument(f"Malformed request: {http_method} {path}")
    version = match["version"]
    if version and int(version) > _MAX_INT64:
        raise invalid_argument(f"Failed to convert version: {version} to numeric.")
    return Asked(
        name=unquote(match["name"] or ""),
        version=int(version) if version else None,
        label=unquote(match["label"] or ""),
        method=(match["method"] or "").lower(),
    )


def _with_spec(message: Any, asked: Asked) -> Any:
    message.model_spec.name = asked.name
    if asked.version is not None:
        message.model_spec.version.value = asked.version
    elif asked.label:
        message.model_spec.version_label = asked.label
    return message


def _as_dict(message: Any) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _dumps(value: Any) -> str:
    return json.dumps(value, indent=4, ensure_ascii=False)
