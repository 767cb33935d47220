"""Puts the parts together and runs them: load first, then open the ports, and drain when told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health

from serving.model_server import rest, services
from serving.model_server.api import ModelApi
from serving.model_server.batching import BatchingOptions, MicroBatcher
from serving.model_server.catalog import Catalog
from serving.model_server.errors import ServingError, StartError
from serving.model_server.lifecycle import LifecycleOptions, Model
from serving.model_server.listening import cannot_listen, listening_socket
from serving.model_server.servable import Load

log = logging.getLogger(__name__)

_GRPC_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server behind the same address
)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """One model on one address. A port of 0 is any free one; `rest_port` None is no REST."""

    model_name: str
    model_base_path: Path
    host: str = "127.0.0.1"
    port: int = 8500
    rest_port: int | None = 8501
    shutdown_grace_s: float = 10.0
    lifecycle: LifecycleOptions = field(default_factory=LifecycleOptions)
    batching: BatchingOptions = field(default_factory=BatchingOptions)
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
    base_path = options.model_base_path
    if base_path.exists() and not base_path.is_dir():
        raise StartError(f"--model_base_path {base_path} is a file; give the directory of the version directories")
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
    async with contextlib.AsyncExitStack() as stack:
        runs = stack.enter_context(ThreadPoolExecutor(options.batching.workers, thread_name_prefix="run"))
        loads = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="load"))
        model = Model(options.model_name, options.model_base_path, load=load, executor=loads, options=options.lifecycle)
        stack.push_async_callback(model.close)
        batcher = MicroBatcher(options.batching, runs)
        background = [asyncio.create_task(model.watch()), asyncio.create_task(batcher.work())]
        stack.push_async_callback(_cancel, background)
        if not await _ready(model, stop):
            log.info("stopped before model=%s was available", model.name)
            return
        api = ModelApi(Catalog({model.name: model}), batcher)
        started(await stack.enter_async_context(_ports(options, api, model)))
        await _until(stop, background)
        log.info("draining grace_s=%g", options.shutdown_grace_s)
    log.info("stopped model=%s", options.model_name)


async def _ready(model: Model, stop: asyncio.Event) -> bool:
    """True when the model is AVAILABLE, False when told to stop before. Raises StartError."""
    ready, stopped = asyncio.create_task(model.ready()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((ready, stopped), return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
        return ready.done()
    except ServingError as error:
        raise StartError(
            f"Failed to start server: model {model.name} under {model.base_path} did not become available "
            f"({error.code.name}: {error.message}). Mend or remove that version, or publish a newer one."
        ) from error
    finally:
        await _cancel((ready, stopped))


@contextlib.asynccontextmanager
async def _ports(options: ServerOptions, api: ModelApi, model: Model) -> AsyncIterator[Running]:
    """Opens the ports; on leaving, refuses what is new and lets what has begun end."""
    health_servicer = health.aio.HealthServicer()
    server = grpc.aio.server(options=(*_GRPC_OPTIONS, *options.channel_arguments))
    services.add_services(server, api, health_servicer)
    port = _bind(server, options)
    async with contextlib.AsyncExitStack() as stack:
        rest_port = None
        if options.rest_port is not None:
            rest_port = await stack.enter_async_context(rest.serving(api, options.host, options.rest_port))
            log.info("exporting HTTP/REST API address=http://%s:%d", options.host, rest_port)
        tell_health = partial(services.set_health, health_servicer)
        await tell_health(is_serving=True)
        await server.start()
        stack.push_async_callback(server.stop, options.shutdown_grace_s)
        follow = asyncio.create_task(model.tell_availability(tell_health))
        stack.push_async_callback(_cancel, [follow])
        stack.push_async_callback(health_servicer.enter_graceful_shutdown)
        log.info("running gRPC ModelServer model=%s address=%s:%d", options.model_name, options.host, port)
        yield Running(port=port, rest_port=rest_port)


def _bind(server: grpc.aio.Server, options: ServerOptions) -> int:
    try:
        return server.add_insecure_port(f"{options.host}:{options.port}")
    except RuntimeError as error:
        raise cannot_listen(options.host, options.port, "--port", error) from error


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
