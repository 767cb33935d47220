"""Command `up`: model server, gateway and its feedback worker in the foreground, one Ctrl-C for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import IO

import typer

from cli.settings import PREFIX, Settings
from feature_repo.errors import LongtailError

DRAIN_S = 20.0
STARTUP_S = 90.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process of `up`. It is ready when `target` answers grpc.health.v1, or once it prints a line with `says`."""

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    target: str
    says: str = ""
    has_said: threading.Event = field(default_factory=threading.Event)


class PartError(LongtailError):
    """A process of `up` ended by itself or did not become ready."""


def parts(settings: Settings) -> tuple[Part, Part]:
    """Model server first: the gateway checks the model's contract when it starts."""
    # -P: a folder named `training` or `serving` where the user stands must not be taken for ours
    longtail = (sys.executable, "-P", "-m", "cli.main", "--state-dir", str(settings.state_dir))
    host, _, port = settings.gateway.model_server.rpartition(":")
    serve = ("model-server", f"--host={host}", f"--port={port}", "--rest_api_port=0", *_models(settings))
    gateway = {
        f"{PREFIX}GATEWAY__{name.upper()}": str(getattr(settings.gateway, name))
        for name in ("address", "model_server", "metrics_address")
    }
    return (
        Part(name="model-server", command=(*longtail, *serve), environ={}, target=settings.gateway.model_server),
        Part(
            name="gateway",
            command=(*longtail, "gateway"),
            environ=gateway,
            target=settings.gateway.address,
            says="gateway ready at",  # its health may be behind TLS that trusts no one here
        ),
    )


def _models(settings: Settings) -> tuple[str, ...]:
    """The labelled versions where there are labels, else the newest."""
    file = settings.training.model_config_file
    if file is None or not file.exists():
        return (f"--model_name={settings.gateway.model_name}",)
    return (
        f"--model_config_file={file}",
        "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models",  # all are loaded before the port opens
    )


@contextmanager
def running(
    settings: Settings, *, log: IO[str], stop: threading.Event | None = None
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Starts all parts, yields them by name when each is ready, or at once when `stop` is set, and stops them on the
    way out: the gateway first, so that it drains."""
    stop = stop or threading.Event()
    if not any(settings.state.models.glob("[0-9]*")):
        raise PartError(
            f"no model under {settings.state.models}; run `make demo`, or `longtail train`, `export`, `publish`"
        )
    started: dict[str, subprocess.Popen[str]] = {}
    try:
        for part in parts(settings):
            if not stop.is_set():
                started[part.name] = _start(part, log)
                _await_ready(part, started[part.name], stop)
        yield started
    finally:
        for process in reversed(started.values()):
            _stop(process)


def watch(processes: Mapping[str, subprocess.Popen[str]], stop: threading.Event) -> None:
    """Returns when `stop` is set. Raises PartError when one ends before."""
    while not stop.wait(0.5):
        for name, process in processes.items():
            if (code := process.poll()) is not None:
                raise PartError(f"{name} ended with exit code {code}; its log above says why")


def _start(part: Part, log: IO[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        part.command,
        env={**os.environ, **part.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )

    def copy() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            log.write(f"{part.name:>12} | {line}")
            log.flush()
            if part.says and part.says in line:
                part.has_said.set()

    threading.Thread(target=copy, name=f"log-{part.name}", daemon=True).start()
    return process


def _await_ready(part: Part, process: subprocess.Popen[str], stop: threading.Event) -> None:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    def is_serving(stub: health_pb2_grpc.HealthStub) -> bool:
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.RpcError:
            return False  # not listening yet
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    deadline = time.monotonic() + STARTUP_S
    with grpc.insecure_channel(part.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while not stop.is_set():
            if time.monotonic() > deadline:
                raise PartError(
                    f"{part.name} did not become ready at {part.target} in {STARTUP_S:.0f} s; its log above says why"
                )
            if (code := process.poll()) is not None:
                raise PartError(f"{part.name} ended with exit code {code} before it was ready; its log above says why")
            if part.has_said.is_set() if part.says else is_serving(stub):
                return
            time.sleep(0.1)


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def up(context: typer.Context) -> None:
    """Run model server, gateway and feedback worker until Ctrl-C, with the embedded stores.

    Example: `longtail up`, then in another shell `longtail rank --user 42 --explain`.
    """
    settings: Settings = context.obj
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    with running(settings, log=sys.stderr, stop=stop) as processes:
        if not stop.is_set():
            gateway = settings.gateway
            typer.echo(
                f"gateway {gateway.address}   model server {gateway.model_server}   metrics {gateway.metrics_address}"
            )
            typer.echo("try: longtail rank --user 42 --explain      Ctrl-C drains and stops")
        watch(processes, stop)
        typer.echo("draining")


def register(app: typer.Typer) -> None:
    """Adds `up`."""
    app.command()(up)
