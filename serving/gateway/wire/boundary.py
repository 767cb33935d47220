"""The edge of every call of ours: admission, unreadable bytes, refusals with their details, bugs, the count by code."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from serving.gateway.access.caller import Caller, calling
from serving.gateway.access.gate import Call, Gate
from serving.gateway.errors import (
    CODES,
    AuditError,
    InvalidRequestError,
    OverloadedError,
    QuotaError,
    RefusalError,
    UnreadableRequestError,
)
from serving.gateway.observing import tracing
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.observing.trail import Trail, leaving
from serving.gateway.wire.hiding import Hide, nothing_hidden

DOMAIN: Final = "longtail.activation.v1"
STATUS_KEY: Final = "grpc-status-details-bin"
MAX_MESSAGE: Final = 500  # characters; it travels in a trailer

Parse = Callable[[bytes], Any]
Stream = Callable[..., AsyncGenerator[Any, None]]  # grpc's stubs know only the threaded server's

_log = logging.getLogger(__name__)

if TYPE_CHECKING:  # generic only in their stubs
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]


class Boundary(grpc.aio.ServerInterceptor):
    """Wraps the methods of `longtail.activation.v1`, of every kind but client streams; health and reflection pass.

    Handlers of streams are async generators. Bytes are parsed only for callers that the gate admitted.
    """

    def __init__(self, telemetry: Telemetry, gate: Gate, hide: Hide = nothing_hidden) -> None:
        self._telemetry = telemetry
        self._hide = hide
        self._gate = gate
        self._wrapped: dict[str, Handler | None] = {}  # by method: handlers do not change

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        path = handler_call_details.method
        if path in self._wrapped:
            return self._wrapped[path]
        handler = await continuation(handler_call_details)
        if handler is not None:  # paths that do not exist are not kept: there is no end to them
            self._wrapped[path] = handler = self._wrap(handler, path)
        return handler

    def _wrap(self, handler: Handler, path: str) -> Handler:
        service, _, method = path.lstrip("/").partition("/")
        if not service.startswith(f"{DOMAIN}."):
            return handler
        parse, serialize = _parser(handler.request_deserializer, self._hide), handler.response_serializer
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary, method, parse), response_serializer=serialize
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._answer_stream(cast(Stream, handler.unary_stream), method, parse), response_serializer=serialize
            )
        assert handler.stream_stream is not None, f"{method} is of a kind that the boundary does not know"
        return grpc.stream_stream_rpc_method_handler(
            self._stream(cast(Stream, handler.stream_stream), method, parse), response_serializer=serialize
        )

    def _unary(self, answer: Callable[..., Awaitable[Any]], method: str, parse: Parse) -> Callable[..., Awaitable[Any]]:
        async def guarded(data: bytes, context: Context) -> Any:
            async with self._admitted(Trail(method=method), context):
                return await answer(parse(data), context)

        return guarded

    def _answer_stream(self, answer: Stream, method: str, parse: Parse) -> Callable[..., Awaitable[None]]:
        async def guarded(data: bytes, context: Context) -> None:
            async with self._admitted(Trail(method=method, is_stream=True), context):
                await _send(answer(parse(data), context), context)

        return guarded

    def _stream(self, answer: Stream, method: str, parse: Parse) -> Callable[..., Awaitable[None]]:
        async def guarded(received: AsyncIterator[bytes], context: Context) -> None:
            async with self._admitted(Trail(method=method, is_stream=True), context) as caller:

                async def requests() -> AsyncIterator[Any]:
                    async for data in received:
                        await self._gate.wait(caller)  # not reading on is what slows the sender
                        yield _parsed(parse, data)

                await _send(answer(requests(), context), context)

        return guarded

    @asynccontextmanager
    async def _admitted(self, trail: Trail, context: Context) -> AsyncIterator[Caller]:
        """Admits the caller, and watches what comes after."""
        started_s = time.perf_counter()
        method = trail.method
        call = _call(method, context)
        with tracing.call(DOMAIN, method, call.metadata) as ended, leaving(trail):
            code = grpc.StatusCode.OK
            caller = None
            try:
                caller = self._gate.admit(call)
                with calling(caller):
                    yield caller
            except RefusalError as refusal:
                code = CODES[type(refusal)]
                self._telemetry.refusals.labels(method, refusal.reason).inc()
                await _abort(context, refusal)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception:
                code = grpc.StatusCode.INTERNAL
                _log.exception("bug: %s failed", method)
                await context.abort(code, f"{method} failed; the gateway's log says why")
            finally:
                ended(code)
                if caller is not None:
                    self._settle(caller, call, code)
                self._telemetry.saw(method, code=code.name, took_s=time.perf_counter() - started_s, trail=trail)

    def _settle(self, caller: Caller, call: Call, code: grpc.StatusCode) -> None:
        try:
            self._gate.settle(caller, call, code=code.name)
        except AuditError as error:  # it is done already
            _log.error("%s of %r ended with %s: %s", call.method, caller.name, code.name, error)


def _call(method: str, context: Context) -> Call:
    peer = context.peer()
    names = [*context.auth_context().get("x509_common_name", ()), b""]
    return Call(
        method=method,
        metadata=context.invocation_metadata() or (),
        peer=peer,
        certificate=names[0].decode(errors="replace"),
    )


def _parser(parse: Callable[[bytes], Any] | None, hide: Hide) -> Parse:
    """Bytes that are no request become a refusal; grpc would answer INTERNAL."""

    def tolerant(data: bytes) -> Any:
        try:
            request = parse(data) if parse else data
            hide(request)
            return request
        except DecodeError as error:
            raise UnreadableRequestError(f"the request cannot be parsed: {error}; strings must be UTF-8") from error

    return tolerant


def _parsed(parse: Parse, data: bytes) -> Any:
    """The element, or what is wrong with it: an element that cannot be read does not end its stream."""
    try:
        return parse(data)
    except UnreadableRequestError as error:
        return error


async def _send(answers: AsyncGenerator[Any, None], context: Context) -> None:
    """Sends them, and ends them at once when the caller is gone; a generator given to gRPC ends when it is collected,
    in another task."""
    async with aclosing(answers):
        async for answer in answers:
            try:
                await context.write(answer)
            except grpc.aio.InternalError as error:  # gRPC's word for a caller who left while it was being sent
                raise asyncio.CancelledError from error


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
    if isinstance(refusal, OverloadedError | QuotaError):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(refusal.retry_after_s * 1000))
        status.details.add().Pack(retry)
    return status
