"""The edge of every call of ours: unreadable bytes, refusals with their details, bugs, and the count by code."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from serving.gateway.errors import (
    CODES,
    InvalidRequestError,
    OverloadedError,
    RefusalError,
    UnreadableRequestError,
)
from serving.gateway.telemetry import Telemetry

DOMAIN: Final = "longtail.activation.v1"
STATUS_KEY: Final = "grpc-status-details-bin"
MAX_MESSAGE: Final = 500  # characters; it travels in a trailer

_log = logging.getLogger(__name__)

if TYPE_CHECKING:  # generic only in their stubs
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]


class Boundary(grpc.aio.ServerInterceptor):
    """Wraps the methods of `longtail.activation.v1`; health and reflection pass."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if handler is None or handler.unary_unary is None or not service.startswith(f"{DOMAIN}."):
            return handler
        return grpc.unary_unary_rpc_method_handler(
            self._guarded(handler.unary_unary, method),
            request_deserializer=_tolerant(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _guarded(self, answer: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
        async def guarded(request: Any, context: Context) -> Any:
            started_s = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                if isinstance(request, UnreadableRequestError):
                    raise request
                return await answer(request, context)
            except RefusalError as refusal:
                code = CODES[type(refusal)]
                await _abort(context, refusal)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception:
                code = grpc.StatusCode.INTERNAL
                _log.exception("bug: %s failed", method)
                await context.abort(code, f"{method} failed; the gateway's log says why")
            finally:
                self._telemetry.requests.labels(method, code.name).inc()
                self._telemetry.request_s.labels(method).observe(time.perf_counter() - started_s)

        return guarded


def _tolerant(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Bytes that are no request become a refusal; grpc would answer INTERNAL."""

    def tolerant(data: bytes) -> Any:
        try:
            return deserialize(data) if deserialize else data
        except DecodeError as error:
            return UnreadableRequestError(f"the request cannot be parsed: {error}; strings must be UTF-8")

    return tolerant


async def _abort(context: Context, refusal: RefusalError) -> None:
    status = status_of(refusal)
    await context.abort(CODES[type(refusal)], status.message, ((STATUS_KEY, status.SerializeToString()),))


def status_of(refusal: RefusalError) -> status_pb2.Status:
    """The refusal with google.rpc details: ErrorInfo always, BadRequest and RetryInfo where they apply."""
    code: int = CODES[type(refusal)].value[0]
    status = status_pb2.Status(code=code_pb2.Code.ValueType(code), message=str(refusal)[:MAX_MESSAGE])
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=dict(refusal.metadata))
    )
    if isinstance(refusal, InvalidRequestError):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=one.field, description=one.description)
            for one in refusal.violations
        ]
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(refusal, OverloadedError):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(refusal.retry_after_s * 1000))
        status.details.add().Pack(retry)
    return status
