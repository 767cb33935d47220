"""Puts the parts together and runs them: load first, then open the ports, and drain when told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc.aio
from grpc_health.v1 import health

from serving.model_server import config_file, rest, services
from serving.model_server.api import ModelApi
from serving.model_server.batching import BatchingOptions, MicroBatcher
from serving.model_server.catalog import Catalog
from serving.model_server.config import ModelConfig
from serving.model_server.errors import ServingError, StartError
from serving.model_server.lifecycle import LifecycleOptions
from serving.model_server.listening import cannot_listen, listening_socket
from serving.model_server.metrics import Metrics
from serving.model_server.model import Model
from serving.model_server.rest import RestOptions
from serving.model_server.servable import Load
from serving.model_server.session_batching import SessionBatcher, SessionBatchingOptions

log = logging.getLogger(__name__)

_GRPC_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server behind the same address
)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """What to serve on which addresses. A port of 0 is any free one; `rest_port` None is no REST."""

    models: tuple[ModelConfig, ...]
    config_file: str = ""
    config_poll_wait_s: float = 0.0  # 0: look at the file once
    allows_labels_for_unavailable: bool = False
    checks_method_name: bool = True
    host: str = "127.0.0.1"
    port: int = 8500
    socket_path: str = ""
    credentials: grpc.ServerCredentials | None = None
    has_health: bool = True
    rest_port: int | None = 8501
    rest: RestOptions = field(default_factory=RestOptions)
    shutdown_grace_s: float = 10.0
    load_threads: int = 1
    lifecycle: LifecycleOptions = field(default_factory=LifecycleOptions)
    batching: BatchingOptions | SessionBatchingOptions = field(default_factory=BatchingOptions)
    channel_arguments: Sequence[tuple[str, str | int]] = ()


@dataclass(frozen=True, kw_only=True)
class Running:
    """The addresses of a server that accepts requests."""

    port: int
    rest_port: int | None


def run(options: ServerOptions, load: Load) -> None:
    """Serves until SIGINT or SIGTERM, then drains. Raises StartError."""
    asyncio.run(_run_until_signal(options, load))


def check_startable(options: ServerOptions) -> None:
    """Says at once, not after seconds or minutes of loading, what will not work. Raises StartError."""
    for flag, port in (("--port", options.port), ("--rest_api_port", options.rest_port)):
        if port:
            listening_socket(options.host, port, flag).close()
    if options.port and options.port == options.rest_port:
        raise StartError(f"--rest_api_port cannot be same as --port: both are {options.port}; choose two")


async def _run_until_signal(options: ServerOptions, load: Load) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await serve(options, load, stop=stop)


async def serve(
    options: ServerOptions, load: Load, *, stop: asyncio.Event, started: Callable[[Running], None] = lambda _: None
) -> None:
    """Serves until `stop` is set; calls `started` when the ports are open. Raises StartError."""
    check_startable(options)
    names = ",".join(config.name for config in options.models)
    async with contextlib.AsyncExitStack() as stack:
        runs = stack.enter_context(ThreadPoolExecutor(options.batching.workers, thread_name_prefix="run"))
        loads = stack.enter_context(ThreadPoolExecutor(options.load_threads, thread_name_prefix="load"))
        catalog = _catalog(options, load, loads)
        stack.push_async_callback(catalog.close)
        batcher = _batcher(options.batching, runs)
        background = [asyncio.create_task(batcher.work())]
        stack.push_async_callback(_cancel, background)
        if not await _ready(catalog, options.models, stop):
            log.info("stopped before models=%s were available", names)
            return
        if options.config_file and options.config_poll_wait_s > 0:
            watch = config_file.watch(options.config_file, catalog, options.config_poll_wait_s)
            background.append(asyncio.create_task(watch))
        metrics = Metrics()
        api = ModelApi(catalog, batcher, metrics, checks_method_name=options.checks_method_name)
        started(await stack.enter_async_context(_ports(options, api, metrics)))
        log.info("serving models=%s", names)
        await _until(stop, background)
        log.info("draining grace_s=%g", options.shutdown_grace_s)
    log.info("stopped models=%s", names)


def _catalog(options: ServerOptions, load: Load, loads: Executor) -> Catalog:
    def make_model(config: ModelConfig, changed: asyncio.Condition) -> Model:
        return Model(config, load=load, executor=loads, options=options.lifecycle, changed=changed)

    return Catalog(make_model, allows_labels_for_unavailable=options.allows_labels_for_unavailable)


def _batcher(options: BatchingOptions | SessionBatchingOptions, runs: Executor) -> MicroBatcher | SessionBatcher:
    return MicroBatcher(options, runs) if isinstance(options, BatchingOptions) else SessionBatcher(options, runs)


async def _ready(catalog: Catalog, models: Sequence[ModelConfig], stop: asyncio.Event) -> bool:
    """True when the models are AVAILABLE, False when told to stop before. Raises StartError."""
    ready, stopped = asyncio.create_task(catalog.reload(models, what="servable")), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((ready, stopped), return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
        return ready.done()
    except ServingError as error:
        raise StartError(
            f"{error.code.name}: {error.message}. Mend or remove what fails, or publish a newer version."
        ) from error
    finally:
        await _cancel((ready, stopped))


@contextlib.asynccontextmanager
async def _ports(options: ServerOptions, api: ModelApi, metrics: Metrics) -> AsyncIterator[Running]:
    """Opens the ports; on leaving, refuses what is new and lets what has begun end."""
    health_servicer = health.aio.HealthServicer()
    server = grpc.aio.server(options=(*_GRPC_OPTIONS, *options.channel_arguments))
    services.add_services(server, api, metrics, health_servicer if options.has_health else None)
    port = _bind(server, options)
    async with contextlib.AsyncExitStack() as stack:
        rest_port = None
        if options.rest_port is not None:
            application = rest.application(api, metrics, options.rest)
            rest_port = await stack.enter_async_context(rest.serving(application, options.host, options.rest_port))
            log.info("exporting HTTP/REST API address=http://%s:%d", options.host, rest_port)
        tell_health = partial(services.set_health, health_servicer)
        await tell_health(is_serving=True)
        await server.start()
        stack.push_async_callback(server.stop, options.shutdown_grace_s)
        follow = asyncio.create_task(api.catalog.tell_availability(tell_health))
        stack.push_async_callback(_cancel, [follow])
        stack.push_async_callback(health_servicer.enter_graceful_shutdown)
        log.info("running gRPC ModelServer address=%s:%d socket=%s", options.host, port, options.socket_path or "none")
        yield Running(port=port, rest_port=rest_port)


def _bind(server: grpc.aio.Server, options: ServerOptions) -> int:
    """Binds the port, and the UNIX socket where there is one. Raises StartError."""

    def bind(address: str) -> int:
        if options.credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, options.credentials)

    try:
        port = bind(f"{options.host}:{options.port}")
    except RuntimeError as error:
        raise cannot_listen(options.host, options.port, "--port", error) from error
    if options.socket_path:
        try:
            bind(f"unix:{options.socket_path}")
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on the UNIX socket {options.socket_path} ({error}): give --grpc_socket_path a path "
                "in a directory that exists and may be written"
            ) from error
    return port


async def _until(stop: asyncio.Event, background: Sequence[asyncio.Task[None]]) -> None:
    """Until told to stop. Raises what a background task raised."""
    stopped = asyncio.create_task(stop.wait())
    waiting = {stopped, *background}
    while not stopped.done():
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
