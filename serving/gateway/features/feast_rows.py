"""Rows as Feast keeps them online, read in one trip for many users: from Redis one HMGET each, from SQLite one query.

The formats are those of Feast 0.67 with entity keys of version 3; tests/gateway/test_feature_readers.py writes with
Feast's own SDK and reads here.
"""

from __future__ import annotations

import asyncio
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol

from google.protobuf.timestamp_pb2 import Timestamp
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from feature_repo.contract import FeatureValue
from feature_repo.feast_api import EntityKey, FeatureStore, Value, hash_of_field, serialize_entity_key
from feature_repo.online.sqlite_rows import event_unix_s
from serving.gateway.domain import Row, Rows, UserId

ENTITY_KEY_VERSION: Final = 3
RECONNECTIONS: Final = 1  # at once: a connection that lay idle may have been closed


class StoredRows(Protocol):
    async def read(self, user_ids: Sequence[UserId]) -> list[Rows]:
        """Of each user the views that have a row. Raises whatever the store's client raises."""
        ...

    def close(self) -> None: ...


class RedisRows:
    """One hash per user, fields of all views in it: one HMGET each, all in one pipeline, through Feast's own client."""

    def __init__(self, store: FeatureStore, views: Sequence[Any]) -> None:
        self._config = store.config
        self._store: Any = store.provider.online_store
        self._client: Any = None
        self._idle: list[Any] = []  # connections
        self._project = store.project.encode()
        self._views = [(view.name, [feature.name for feature in view.features]) for view in views]
        fields: list[bytes] = []
        for view, names in self._views:
            fields += [*(hash_of_field(f"{view}:{name}") for name in names), f"_ts:{view}".encode()]
        self._start = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(fields))
        self._fields = b"".join([b"$%d\r\n%b\r\n" % (len(field), field) for field in fields])

    async def read(self, user_ids: Sequence[UserId]) -> list[Rows]:
        found = await self._ask([entity_key(user_id) + self._project for user_id in user_ids])
        return [dict(self._rows(values)) for values in found]

    async def _ask(self, keys: Sequence[bytes]) -> list[Sequence[bytes | None]]:
        """Over connections of Feast's client. Its own pipeline packs each field of each user anew, and takes and gives
        back a connection for each trip, which costs more than the trip."""
        commands = b"".join([b"%b$%d\r\n%b\r\n%b" % (self._start, len(key), key, self._fields) for key in keys])
        for is_last in (*(RECONNECTIONS * [False]), True):
            connection = self._idle.pop() if self._idle else (await self._opened()).connection_pool.make_connection()
            try:
                await connection.send_packed_command(commands, check_health=False)
                found = [await connection.read_response() for _ in keys]
            except RedisConnectionError:
                self._idle.clear()  # if one was closed, so were the others
                if is_last:
                    raise
            except BaseException:
                await connection.disconnect(nowait=True)  # replies to nobody may be under way
                raise
            else:
                self._idle.append(connection)
                return found
        raise AssertionError

    def close(self) -> None:
        """The client is Feast's."""

    async def _opened(self) -> Any:
        """Feast's client, told not to wait between tries: by default it sleeps seconds before it says what is wrong."""
        if self._client is None:
            client = await self._store._get_client_async(self._config.online_store)
            client.set_retry(Retry(NoBackoff(), RECONNECTIONS))
            self._client = client
        return self._client

    def _rows(self, values: Sequence[bytes | None]) -> Iterator[tuple[str, Row]]:
        """A view without a time has no row."""
        start = 0
        for view, names in self._views:
            end = start + len(names)
            if (time := values[end]) is not None:
                moment = Timestamp.FromString(time)
                yield view, _row(zip(names, values[start:end], strict=True), moment.seconds + moment.nanos / 1e9)
            start = end + 1


class SqliteRows:
    """One table per view, one line per feature; read by one thread, through a connection that cannot write."""

    def __init__(self, store: FeatureStore, views: Sequence[Any]) -> None:
        self._path = Path(store.repo_path) / store.config.online_store.path
        self._tables = {view.name: f'"{store.project}_{view.name}"' for view in views}
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="online-store")

    async def read(self, user_ids: Sequence[UserId]) -> list[Rows]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, user_ids)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, user_ids: Sequence[UserId]) -> list[Rows]:
        keys = {entity_key(user_id): place for place, user_id in enumerate(user_ids)}
        marks = ",".join(f"?{place}" for place in range(1, len(keys) + 1))
        query = " UNION ALL ".join(
            f"SELECT '{view}', entity_key, feature_name, value, event_ts FROM {table} WHERE entity_key IN ({marks})"  # noqa: S608
            for view, table in self._tables.items()
        )
        found: dict[tuple[bytes, str], tuple[int, list[tuple[str, bytes]]]] = {}
        for view, key, name, value, time in self._open().execute(query, list(keys)):
            found.setdefault((key, view), (time, []))[1].append((name, value))
        rows: dict[bytes, dict[str, Row]] = {key: {} for key in keys}
        for (key, view), (time, values) in found.items():
            rows[key][view] = _row(values, float(event_unix_s(time)))
        return [rows[entity_key(user_id)] for user_id in user_ids]

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)
        return self._connection


def entity_key(user_id: UserId) -> bytes:
    """What Feast's `serialize_entity_key` makes of the user, without making the message first."""
    value = user_id.encode()
    return _KEY_START + struct.pack("<I", len(value)) + value


_KEY_START: Final = serialize_entity_key(
    EntityKey(join_keys=["user_id"], entity_values=[Value(string_val="")]),
    entity_key_serialization_version=ENTITY_KEY_VERSION,
)[: -len(struct.pack("<I", 0))]


def _row(values: Any, event_unix_s: float) -> Row:
    return Row(values={name: _value(data) for name, data in values}, event_unix_s=event_unix_s)


def _value(data: bytes | None) -> FeatureValue:
    """An unset value is no bytes at all."""
    if not data:
        return None
    proto = Value.FromString(data)
    kind = proto.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    value = getattr(proto, kind)
    decoded: FeatureValue = list(value.val) if kind.endswith("_list_val") else value
    return decoded
