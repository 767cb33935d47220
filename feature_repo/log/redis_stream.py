"""Events through a Redis stream with a consumer group. As durable as that Redis is: think of `appendfsync`."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any, Final

import redis

from feature_repo.errors import EventLogError
from feature_repo.events import Event
from feature_repo.log.event_lines import encode_event
from feature_repo.log.event_streams import APPEND_TIMEOUT_S

GROUP: Final = "longtail"
ABANDONED_MS: Final = 30_000  # what a consumer read and did not acknowledge for so long goes to another
_FIELD: Final = b"event"


class RedisSink:
    """One XADD per event, in one round trip."""

    def __init__(self, url: str, stream: str) -> None:
        self._client = _client(url)
        self._stream = stream

    def append(self, events: Sequence[Event]) -> list[bool]:
        try:
            with self._client.pipeline(transaction=True) as pipe:
                for event in events:
                    pipe.xadd(self._stream, {_FIELD: encode_event(event)})
                pipe.execute()
        except redis.RedisError as error:
            raise EventLogError(f"the stream {self._stream} took no events: {error}") from error
        return [True] * len(events)


class RedisSource:
    """A consumer of the group; messages leave the stream once they are acknowledged."""

    def __init__(self, url: str, stream: str, *, abandoned_ms: int = ABANDONED_MS) -> None:
        self._client = _client(url)
        self._stream = stream
        self._consumer = f"{socket.gethostname()}-{os.getpid()}"
        self._abandoned_ms = abandoned_ms
        self._unacknowledged: list[tuple[bytes, dict[bytes, bytes]]] = []
        self._has_group = False

    def read(self, *, limit: int, timeout_s: float) -> list[bytes]:
        try:
            self._join()
            found = self._unacknowledged or self._abandoned(limit) or self._new(limit, timeout_s)
        except redis.RedisError as error:
            self._has_group = False
            raise EventLogError(f"the stream {self._stream} gives no events: {error}") from error
        self._unacknowledged = found
        return [fields.get(_FIELD, b"") for _, fields in found if fields]

    def acknowledge(self) -> None:
        ids = [entry_id for entry_id, _ in self._unacknowledged]
        try:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.xack(self._stream, GROUP, *ids)
                pipe.xdel(self._stream, *ids)
                pipe.execute()
        except redis.RedisError as error:
            raise EventLogError(f"the stream {self._stream} took no acknowledgement: {error}") from error
        self._unacknowledged = []

    def close(self) -> None:
        self._client.close()

    def _join(self) -> None:
        if self._has_group:
            return
        try:
            self._client.xgroup_create(self._stream, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._has_group = True

    def _abandoned(self, limit: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """What this or another consumer read and never acknowledged."""
        if self._client.xpending(self._stream, GROUP)["pending"] == 0:
            return []
        claimed: Any = self._client.xautoclaim(
            self._stream, GROUP, self._consumer, min_idle_time=self._abandoned_ms, count=limit
        )
        found: list[tuple[bytes, dict[bytes, bytes]]] = claimed[1]
        return found

    def _new(self, limit: int, timeout_s: float) -> list[tuple[bytes, dict[bytes, bytes]]]:
        block_ms = max(1, int(timeout_s * 1000))
        answer: Any = self._client.xreadgroup(GROUP, self._consumer, {self._stream: ">"}, count=limit, block=block_ms)
        return [entry for _, entries in answer or [] for entry in entries]


def _client(url: str) -> Any:
    return redis.Redis.from_url(url, socket_timeout=APPEND_TIMEOUT_S, socket_connect_timeout=APPEND_TIMEOUT_S)
