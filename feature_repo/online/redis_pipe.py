"""Many Redis commands in one write, their replies parsed in C. A client library spends most of it per command."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import hiredis

from feature_repo.online.store import FeatureStoreError

TIMEOUT_S = 5.0
_RECEIVE_BYTES: Final = 1 << 18
_PASSING: Final = ("LOADING", "BUSY", "MASTERDOWN", "NOSCRIPT", "TRYAGAIN", "READONLY", "CLUSTERDOWN")


class StoreUnavailableError(FeatureStoreError):
    """The store did not answer now; trying again may help."""


class RedisPipe:
    """One connection, opened when it is first needed and after a failure anew. Any thread may call it."""

    def __init__(self, url: str, *, scripts: Sequence[bytes] = (), timeout_s: float | None = None) -> None:
        self._parts = urlsplit(url)
        self._scripts = scripts
        self._timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader()

    def call(self, *words: bytes) -> Any:
        """One command and its reply."""
        return self.send(command(*words), 1)[0]

    def send(self, commands: Any, replies: int) -> list[Any]:
        """Sends packed commands (bytes or a buffer) and returns their replies; an error among them is raised."""
        with self._lock:
            try:
                found = self._exchange(commands, replies)
            except OSError as error:
                self._drop()
                address = f"{self._parts.hostname}:{self._parts.port or 6379}"
                raise StoreUnavailableError(f"Redis at {address} did not answer: {error}; is it running?") from error
        for reply in found:
            if isinstance(reply, hiredis.ReplyError):
                raise _explained(str(reply))
        return found

    def close(self) -> None:
        """A later call opens it again."""
        with self._lock:
            self._drop()

    def _exchange(self, commands: Any, replies: int) -> list[Any]:
        if self._socket is None:
            self._connect()
        assert self._socket is not None
        self._socket.sendall(commands)
        found: list[Any] = []
        while len(found) < replies:
            reply = self._reader.gets()
            if reply is False:
                data = self._socket.recv(_RECEIVE_BYTES)
                if not data:
                    raise ConnectionResetError("it closed the connection")
                self._reader.feed(data)
                continue
            found.append(reply)
        return found

    def _connect(self) -> None:
        parts = self._parts
        assert parts.hostname is not None
        opened = socket.create_connection((parts.hostname, parts.port or 6379), timeout=self._timeout_s)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.scheme == "rediss":
            opened = ssl.create_default_context().wrap_socket(opened, server_hostname=parts.hostname)
        self._socket, self._reader = opened, hiredis.Reader()
        greeting = []
        if parts.password:
            user = [unquote(parts.username).encode()] if parts.username else []
            greeting.append(command(b"AUTH", *user, unquote(parts.password).encode()))
        greeting.append(command(b"SELECT", (parts.path.strip("/") or "0").encode()))
        greeting += [command(b"SCRIPT", b"LOAD", script) for script in self._scripts]
        for reply in self._exchange(b"".join(greeting), len(greeting)):
            if isinstance(reply, hiredis.ReplyError):
                self._drop()
                raise _explained(str(reply))

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None


def command(*words: bytes) -> bytes:
    """One command in Redis's protocol."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _explained(reply: str) -> FeatureStoreError:
    if reply.startswith("OOM"):
        return FeatureStoreError(
            "Redis is full: used memory is over maxmemory, and with noeviction it takes no more. Nothing that was "
            f"there is lost. Give it more memory, then run the same command again ({reply})"
        )
    if reply.startswith(_PASSING):
        return StoreUnavailableError(f"Redis cannot serve now: {reply}")
    return FeatureStoreError(f"Redis refused: {reply}")
