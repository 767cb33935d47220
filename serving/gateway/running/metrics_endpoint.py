"""Where Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, start_http_server

from feature_repo.errors import LongtailError
from serving.gateway.observing.telemetry import Telemetry


def serve_metrics(address: str, telemetry: Telemetry) -> Callable[[], None]:
    """Gives what ends it; an empty address serves none. Raises LongtailError when the address cannot be had."""
    return serve_registry(address, telemetry.registry)


def serve_registry(address: str, registry: CollectorRegistry) -> Callable[[], None]:
    if not address:
        return lambda: None
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), addr=host, registry=registry)
    except OSError as error:
        raise LongtailError(
            f"cannot serve metrics on {address}: {error}; set gateway.metrics_address to a free address, or to nothing"
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
