"""Where Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from feature_repo.errors import LongtailError
from serving.gateway.observing.telemetry import Telemetry


def serve_metrics(address: str, telemetry: Telemetry) -> Callable[[], None]:
    """Gives what ends it; an empty address serves none. Raises LongtailError when the address cannot be had."""
    if address:
        count_workers(telemetry.registry, wanted=1, ready=lambda: 1)
    return serve_registry(address, telemetry.registry)


def count_workers(registry: CollectorRegistry, *, wanted: int, ready: Callable[[], int]) -> None:
    """Told by the process that serves the metrics: a worker knows of no other."""
    told = Gauge("longtail_workers_wanted", "Processes that are to serve.", registry=registry)
    told.set(wanted)
    told = Gauge("longtail_workers_ready", "Of these, those that became ready and have not ended.", registry=registry)
    told.set_function(ready)


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
