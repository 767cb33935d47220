"""How Feast names things in its online stores: entity keys (serialization version 3), hash fields, tables."""

from __future__ import annotations

import struct
from typing import Any, Final

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract import View
from feature_repo.online.value_bytes import joined

PROJECT: Final = "longtail"

_STRING: Final = 2  # feast.ValueType.STRING


def entity_keys(entity: str, entity_ids: Any) -> Any:
    """The serialized keys of one entity's ids, as a BinaryArray."""
    ids = entity_ids.cast(pa.binary())
    lengths = np.asarray(pc.binary_length(ids)).astype("<u4")
    sizes = pa.FixedSizeBinaryArray.from_buffers(pa.binary(4), len(ids), [None, pa.py_buffer(lengths)])
    return joined(pa.scalar(_key_prefix(entity)), sizes.cast(pa.binary()), ids)


def entity_key(entity: str, entity_id: str) -> bytes:
    """The serialized key of one id."""
    encoded = entity_id.encode()
    return _key_prefix(entity) + struct.pack("<I", len(encoded)) + encoded


def hash_field(view: View, feature: str) -> bytes:
    """A feature's field in the entity's Redis hash."""
    return struct.pack("<I", mmh3.hash(f"{view.name}:{feature}", signed=False))


def time_field(view: View) -> bytes:
    """The field of the row's event time."""
    return f"_ts:{view.name}".encode()


def table_name(view: View) -> str:
    """A view's SQLite table."""
    return f"{PROJECT}_{view.name}"


def _key_prefix(entity: str) -> bytes:
    name = entity.encode()
    return struct.pack("<III", 1, _STRING, len(name)) + name + struct.pack("<I", _STRING)
