"""Feast's Redis store: one hash per entity, one field per feature of each view, written a column at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract import VIEWS, Feature, View
from feature_repo.online.redis_pipe import RedisPipe, command
from feature_repo.online.rows import Int64s, Row, decoded_row, filled, unix_seconds
from feature_repo.online.streamed import built_features, streamed_features
from feature_repo.online.value_bytes import encode_column, encode_times, joined
from feature_repo.online.value_format import PROJECT, entity_key, entity_keys, hash_field, time_field

# KEYS: the entity's hash. ARGV: field of the time, time, then how many of the (field, value) pairs that follow are
# the other writer's. The time is a protobuf Timestamp of whole seconds.
_SECONDS: Final = """
local function seconds(time)
  local value, scale = 0, 1
  for place = 2, #time do
    local byte = string.byte(time, place)
    if byte < 128 then return value + byte * scale end
    value = value + (byte - 128) * scale
    scale = scale * 128
  end
  return value
end
local here = redis.call('HGET', KEYS[1], ARGV[1])
local first = tonumber(ARGV[3])
"""
# A build: its own pairs first, always written; the stream's only where no newer row is. 1 when all were written.
_LOAD: Final = (
    _SECONDS
    + """
if here and here ~= ARGV[2] and seconds(here) > seconds(ARGV[2]) then
  if first > 0 then redis.call('HSET', KEYS[1], unpack(ARGV, 4, 3 + 2 * first)) end
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], unpack(ARGV, 4))
return 1
"""
).encode()
# The stream: its pairs first, always written; the build's defaults only where there is no row. Time never goes back.
_STREAM: Final = (
    _SECONDS
    + """
if not here then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], unpack(ARGV, 4))
  return 1
end
local time = ARGV[2]
if seconds(here) > seconds(time) then time = here end
redis.call('HSET', KEYS[1], ARGV[1], time, unpack(ARGV, 4, 3 + 2 * first))
return 1
"""
).encode()


class RedisOnline:
    """Writes and reads as Feast does, with one round trip per batch."""

    def __init__(self, url: str) -> None:
        self._pipe = RedisPipe(url, scripts=(_LOAD, _STREAM))

    def load(self, view: View, batch: pa.RecordBatch) -> int:
        streamed = streamed_features(view)
        if not streamed:
            self._send((b"HSET",), (), view, batch, view.features)
            return 0
        return self._run(_LOAD, view, batch, built_features(view), streamed).count(0)

    def stream(self, view: View, batch: pa.RecordBatch) -> None:
        built = built_features(view)
        self._run(_STREAM, view, filled(batch, built), streamed_features(view), built)

    def read(self, view: View, entity_ids: Sequence[str]) -> list[Row | None]:
        fields = [hash_field(view, feature.name) for feature in view.features]
        asked = (command(b"HMGET", _key(view.entity, each), time_field(view), *fields) for each in entity_ids)
        found = self._pipe.send(b"".join(asked), len(entity_ids))
        return [
            None
            if cells[0] is None
            else decoded_row(
                view, entity_id, _unix_s(cells[0]), dict(zip(view.feature_names(), cells[1:], strict=True))
            )
            for entity_id, cells in zip(entity_ids, found, strict=True)
        ]

    def times(self, view: View, entity_ids: Sequence[str]) -> Int64s:
        if not len(entity_ids):
            return np.zeros(0, np.int64)
        keys = _keys(view.entity, pa.array(entity_ids, pa.string()))
        field = time_field(view)
        end = b"\r\n$%d\r\n%s\r\n" % (len(field), field)
        packed = joined(pa.scalar(b"*3\r\n$4\r\nHGET\r\n$"), _decimals(keys), pa.scalar(b"\r\n"), keys, pa.scalar(end))
        found = self._pipe.send(_payload(packed), len(keys))
        return np.array([0 if time is None else _unix_s(time) for time in found], np.int64)

    def encodings(self, view: View, entity_ids: Sequence[str]) -> list[str]:
        """How Redis keeps the hash of each entity that has one: hashtable, listpack, or ziplist before Redis 7."""
        if not entity_ids:
            return []
        asked = (command(b"OBJECT", b"ENCODING", _key(view.entity, each)) for each in entity_ids)
        found = self._pipe.send(b"".join(asked), len(entity_ids))
        return [each.decode() for each in found if each is not None]

    def erase(self, entity: str, entity_id: str) -> dict[str, int]:
        key = _key(entity, entity_id)
        counts = {}
        for view in (view for view in VIEWS if view.entity == entity):
            fields = [time_field(view), *(hash_field(view, feature.name) for feature in view.features)]
            counts[view.name] = self._pipe.call(b"HDEL", key, *fields)
        self._pipe.call(b"DEL", key)  # what an older contract left
        return counts

    def close(self) -> None:
        self._pipe.close()

    def _run(self, script: bytes, view: View, batch: pa.RecordBatch, own: Sequence[Feature], other: Any) -> list[Any]:
        verb = (b"EVALSHA", hashlib.sha1(script, usedforsecurity=False).hexdigest().encode(), b"1")
        return self._send(verb, (b"%d" % len(own),), view, batch, (*own, *other))

    def _send(
        self, verb: Sequence[bytes], counts: Sequence[bytes], view: View, batch: pa.RecordBatch, features: Any
    ) -> list[Any]:
        if batch.num_rows == 0:
            return []
        return self._pipe.send(_payload(_commands(verb, counts, view, batch, features)), batch.num_rows)


def _commands(
    verb: Sequence[bytes], counts: Sequence[bytes], view: View, batch: pa.RecordBatch, features: Sequence[Feature]
) -> Any:
    """verb, key, time's field, time, counts, then a field and a value per feature; one command per row.

    What is the same in each row is one constant between the values that differ.
    """
    words = len(verb) + 3 + len(counts) + 2 * len(features)
    cells: list[tuple[Sequence[bytes], Any]] = [
        (verb, _keys(view.entity, batch.column(view.entity))),
        ((time_field(view),), _times(batch)),
    ]
    for place, feature in enumerate(features):
        words_before = (*(counts if place == 0 else ()), hash_field(view, feature.name))
        cells.append((words_before, encode_column(batch.column(feature.name), feature.dtype)))
    pieces: list[Any] = [pa.scalar(b"*%d" % words)]
    for before, values in cells:
        constant = b"\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in before) + b"$"
        pieces += [pa.scalar(constant), _decimals(values), pa.scalar(b"\r\n"), values]
    return joined(*pieces, pa.scalar(b"\r\n"))


def _payload(packed: Any) -> memoryview:
    """The rows' bytes lie one after another."""
    _, offsets, data = packed.buffers()
    ends = np.frombuffer(offsets, np.int32, len(packed) + 1, packed.offset * 4)
    return memoryview(data)[int(ends[0]) : int(ends[-1])]


def _decimals(values: Any) -> Any:
    return pc.binary_length(values).cast(pa.string()).cast(pa.binary())


def _keys(entity: str, entity_ids: Any) -> Any:
    return joined(entity_keys(entity, entity_ids), pa.scalar(PROJECT.encode()))


def _key(entity: str, entity_id: str) -> bytes:
    return entity_key(entity, entity_id) + PROJECT.encode()


def _times(batch: pa.RecordBatch) -> Any:
    return encode_times(unix_seconds(batch))


@lru_cache(4096)  # all rows of a build have one time
def _unix_s(time: bytes) -> int:
    """Of a protobuf Timestamp: field 1 are the seconds."""
    seconds, shift = 0, 0
    if time[:1] != b"\x08":
        return 0
    for byte in time[1:]:
        seconds |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return seconds
