"""Spans from the caller's trace (W3C traceparent) over the stages to the model server.

Off by default: then a span is one comparison, and OpenTelemetry is not imported.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

import grpc

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanKind, Tracer

LAST_SPANS_S: Final = 2.0
SERVICE: Final = "longtail-gateway"
Metadata = tuple[tuple[str, str], ...]

Ended = Callable[[grpc.StatusCode], None]
FAILURES: Final = frozenset(  # the server's, as OpenTelemetry's conventions for gRPC count them
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)

_OFF: Final[AbstractContextManager[None]] = nullcontext()
_UNTOLD: Final[AbstractContextManager[Ended]] = nullcontext(lambda code: None)
_tracer: Tracer | None = None


def turn_on(exporter: SpanExporter | None = None) -> Callable[[], None]:
    """Sends spans by OTLP as the OTEL_* variables say, or to `exporter`; gives what ends it and sends the rest."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    global _tracer  # noqa: PLW0603  one per process, as the logging of Python is
    resource = Resource.create({SERVICE_NAME: SERVICE}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(
        resource=resource, shutdown_on_exit=False
    )  # sampler and limits: OTEL_TRACES_SAMPLER and so on
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    _tracer = provider.get_tracer("longtail.gateway")

    def turn_off() -> None:
        global _tracer  # noqa: PLW0603
        _tracer = None
        sending = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(LAST_SPANS_S)  # a collector that is gone must not hold up a drain

    return turn_off


def call(service: str, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> AbstractContextManager[Ended]:
    """The span of a call that came in, within the caller's trace if there is one. It gives what to tell its end to."""
    return _UNTOLD if _tracer is None else _incoming(_tracer, service, method, metadata)


def span(name: str) -> AbstractContextManager[None]:
    """Within the current one."""
    return _OFF if _tracer is None else _within(_tracer, name)


def calling(name: str) -> AbstractContextManager[None]:
    """The span of a call that goes out for one that came in: what the gateway asks for itself is in no trace."""
    if _tracer is None:
        return _OFF
    from opentelemetry.trace import SpanKind, get_current_span

    if not get_current_span().get_span_context().is_valid:
        return _OFF
    return _within(_tracer, name, SpanKind.CLIENT)


def note(**attributes: str | int | float | bool) -> None:
    """On the current span. No user ids: traces go where logs go."""
    if _tracer is None:
        return
    from opentelemetry import trace

    current = trace.get_current_span()
    for name, value in attributes.items():
        current.set_attribute(f"longtail.{name}", value)


def outgoing() -> Metadata:
    """What takes the trace along to the next server."""
    if _tracer is None:
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())


def trace_id() -> str:
    """Of the current span; empty when there is none."""
    if _tracer is None:
        return ""
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


@contextmanager
def _incoming(
    tracer: Tracer, service: str, method: str, metadata: Iterable[tuple[str, str | bytes]]
) -> Iterator[Ended]:
    from opentelemetry.trace import SpanKind, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {key: value for key, value in metadata if isinstance(value, str)}
    attributes: dict[str, Any] = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    with tracer.start_as_current_span(
        f"{service}/{method}",
        context=TraceContextTextMapPropagator().extract(carrier),
        kind=SpanKind.SERVER,
        attributes=attributes,
        record_exception=False,  # a refusal's text may quote the request
        set_status_on_exception=False,
    ) as incoming:

        def ended(code: grpc.StatusCode) -> None:
            incoming.set_attribute("rpc.grpc.status_code", int(code.value[0]))
            if code in FAILURES:
                incoming.set_status(StatusCode.ERROR)

        yield ended


@contextmanager
def _within(tracer: Tracer, name: str, kind: SpanKind | None = None) -> Iterator[None]:
    from opentelemetry.trace import SpanKind

    with tracer.start_as_current_span(
        name, kind=kind or SpanKind.INTERNAL, record_exception=False, set_status_on_exception=False
    ):
        yield
