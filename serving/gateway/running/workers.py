"""Several gateways as one: processes that share a port, started, watched and ended together, their metrics summed.

The kernel spreads connections over them (SO_REUSEPORT). Each has its own permits, quotas, remembered rows and segment
of the decision log; the first alone applies recorded events to the online store.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from feature_repo.errors import LongtailError
from serving.gateway.observing import shared_metrics

READY_S: Final = 90.0
KILL_AFTER_S: Final = 10.0  # beyond the drain
LOOK_S: Final = 0.2
YOUNG_S: Final = 10.0  # a worker that ends sooner than this after it was ready is not started again at once

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`environ` makes of `command` a worker: its number from 0, and the address that all share."""

    count: int
    command: Sequence[str]
    environ: Callable[[int, str], Mapping[str, str]]
    host: str
    port: int  # 0: any free one
    metrics_address: str
    drain_s: float
    beside_others: bool  # other gateways may have the port too


class _Worker:
    """One process; it is ready once it says so."""

    def __init__(self, number: int, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.number = number
        self.is_ready = threading.Event()
        self.ready_at_s = float("inf")
        self.process = subprocess.Popen(command, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, name=f"worker-{number}", daemon=True).start()

    def wait_ready(self, stop: threading.Event) -> None:
        """Raises LongtailError when it ends or takes too long."""
        until_s = time.monotonic() + READY_S
        while not self.is_ready.wait(LOOK_S) and not stop.is_set():
            if (code := self.process.poll()) is not None:
                raise LongtailError(f"worker {self.number} ended with exit code {code} before it was ready; see above")
            if time.monotonic() > until_s:
                raise LongtailError(f"worker {self.number} was not ready in {READY_S:.0f} s; its log says why")
        self.ready_at_s = time.monotonic()

    def serves(self) -> bool:
        return self.is_ready.is_set() and self.process.poll() is None

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "ready at" in line:
                self.is_ready.set()


def serve_with_workers(plan: Plan, *, on_ready: Callable[[int], None]) -> None:
    """Serves until SIGTERM or SIGINT, which every worker gets at once. Raises LongtailError."""
    stop = threading.Event()
    with ExitStack() as stack:
        held = stack.enter_context(hold_port(plan.host, plan.port, beside_others=plan.beside_others))
        port = held.getsockname()[1]
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix=shared_metrics.PREFIX))
        workers: list[_Worker] = []

        def start(number: int) -> _Worker:
            environ = {shared_metrics.VARIABLE: directory, **plan.environ(number, f"{plan.host}:{port}")}
            return _Worker(number, plan.command, environ)

        def pass_on(signal_number: int, _frame: object) -> None:
            if signal_number in (signal.SIGTERM, signal.SIGINT):
                stop.set()
            for worker in workers:
                if stop.is_set():
                    worker.process.send_signal(signal.SIGTERM)
                elif worker.serves():  # one that starts would end of it, and reads the newest files anyway
                    worker.process.send_signal(signal_number)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, pass_on)
        stack.callback(_end, workers, plan.drain_s)
        workers += [start(number) for number in range(plan.count)]
        for worker in workers:
            worker.wait_ready(stop)
        stack.callback(_serve_metrics(plan.metrics_address, directory, workers))
        on_ready(port)
        while not stop.wait(LOOK_S):
            _replace_dead(workers, start, directory)


def _replace_dead(workers: list[_Worker], start: Callable[[int], _Worker], directory: str) -> None:
    """Another in its place; after one that did not live long only when some time has passed."""
    from prometheus_client import multiprocess

    for place, worker in enumerate(workers):
        code = worker.process.poll()
        if code is None:
            if worker.is_ready.is_set():
                worker.ready_at_s = min(worker.ready_at_s, time.monotonic())
            continue
        _log.error("worker %d ended with %d; another takes its place", worker.number, code)
        multiprocess.mark_process_dead(worker.process.pid, directory)  # type: ignore[no-untyped-call]
        if time.monotonic() - worker.ready_at_s < YOUNG_S:
            time.sleep(1.0)
        workers[place] = start(worker.number)


def _end(workers: Sequence[_Worker], drain_s: float) -> None:
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.terminate()
    until_s = time.monotonic() + drain_s + KILL_AFTER_S
    for worker in workers:
        try:
            worker.process.wait(max(until_s - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


def hold_port(host: str, port: int, *, beside_others: bool) -> socket.socket:
    """Bound and never listening: it keeps the port, and finds out whether somebody else has it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = (host.strip("[]"), port)
    try:
        if not beside_others:  # one who listens with SO_REUSEPORT refuses only who is without
            _bound(family, address, socket.SO_REUSEADDR).close()
        return _bound(family, address, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
    except OSError as error:
        raise LongtailError(
            f"cannot listen on {host}:{port}: is it in use? Set gateway.address to a free one ({error})"
        ) from error


def _bound(family: int, address: tuple[str, int], *options: int) -> socket.socket:
    """With SO_REUSEADDR connections that ended a moment ago do not count. Raises OSError."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _serve_metrics(address: str, directory: str, workers: Sequence[_Worker]) -> Callable[[], None]:
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    from serving.gateway.running.metrics_endpoint import count_workers, serve_registry

    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=directory)  # type: ignore[no-untyped-call]
    count_workers(registry, wanted=len(workers), ready=lambda: sum(worker.serves() for worker in workers))
    return serve_registry(address, registry)
