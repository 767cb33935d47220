"""REST: status, metadata and predict, on the paths of the real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import grpc
import uvicorn
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from longtail.tfserving import message_class
from serving.model_server import rest_tensors
from serving.model_server.api import SIGNATURE_DEF, ModelApi, signature_def_map
from serving.model_server.errors import ServingError, invalid_argument
from serving.model_server.listening import listening_socket

log = logging.getLogger(__name__)
logging.getLogger("uvicorn").setLevel(logging.WARNING)  # its start and stop lines say nothing that ours do not

PredictRequest = message_class("tensorflow.serving.PredictRequest")
GetModelMetadataRequest = message_class("tensorflow.serving.GetModelMetadataRequest")
GetModelStatusRequest = message_class("tensorflow.serving.GetModelStatusRequest")

_HTTP_STATUS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 412,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.DEADLINE_EXCEEDED: 408,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
}

Answer = Callable[[Request], Awaitable[Any]]


class _Server(uvicorn.Server):
    """Leaves signals to the one who runs the server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(api: ModelApi, host: str, port: int) -> AsyncIterator[int]:
    """Serves REST while the block runs and yields the port. Raises StartError."""
    with contextlib.closing(listening_socket(host, port, "--rest_api_port")) as listening:
        config = uvicorn.Config(application(api), log_config=None, access_log=False, lifespan="off")
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield int(listening.getsockname()[1])
        finally:
            server.should_exit = True
            await task


def application(api: ModelApi) -> Starlette:
    """The ASGI application."""

    async def status(request: Request) -> Any:
        message = await api.get_model_status(_with_spec(GetModelStatusRequest(), request))
        return _as_dict(message)

    async def metadata(request: Request) -> Any:
        message = _with_spec(GetModelMetadataRequest(metadata_field=[SIGNATURE_DEF]), request)
        response = await api.get_model_metadata(message)
        definitions = signature_def_map(api.catalog.find(message))
        return {"model_spec": _as_dict(response.model_spec), "metadata": {SIGNATURE_DEF: _as_dict(definitions)}}

    async def predict(request: Request) -> Any:
        message = _with_spec(PredictRequest(), request)
        with api.catalog.find(message).lease() as servable:
            rows = rest_tensors.fill_request(message, await request.body(), servable.signatures)
            response = await api.predict(message)
        return rest_tensors.answer(response.outputs, as_rows=rows)

    routes = [
        route
        for model in (
            "/v1/models/{name}",
            "/v1/models/{name}/versions/{version:int}",
            "/v1/models/{name}/labels/{label}",
        )
        for route in (
            Route(f"{model}:predict", _endpoint(predict), methods=["POST"]),
            Route(f"{model}/metadata", _endpoint(metadata), methods=["GET"]),
            Route(model, _endpoint(status), methods=["GET"]),
        )
    ]
    return Starlette(routes=[*routes, Route("/{path:path}", _endpoint(_malformed), methods=["GET", "POST"])])


def _endpoint(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return _json(await answer(request), 200)
        except ServingError as error:
            return _json({"error": error.message}, _HTTP_STATUS.get(error.code, 500))
        except Exception as error:
            log.exception("unexpected failure in %s %s", request.method, request.url.path)
            return _json({"error": f"unexpected {type(error).__name__}: {error}"}, 500)

    return endpoint


async def _malformed(request: Request) -> Any:
    raise invalid_argument(f"Malformed request: {request.method} {request.url.path}")


def _with_spec(message: Any, request: Request) -> Any:
    spec = message.model_spec
    spec.name = request.path_params["name"]
    if "version" in request.path_params:
        spec.version.value = request.path_params["version"]
    if "label" in request.path_params:
        spec.version_label = request.path_params["label"]
    return message


def _as_dict(message: Any) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _json(value: Any, status: int) -> Response:
    return Response(json.dumps(value, indent=2), status, media_type="application/json")
