"""Rows of the online store, written and read past Feast's slow paths but in Feast's own format."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import redis
from feast.protos.feast.types import Value_pb2
from feast.protos.feast.types.EntityKey_pb2 import EntityKey

from feature_repo.contract import Dtype, FeatureValue, View
from feature_repo.store import FeatureStoreError

if TYPE_CHECKING:
    from feast import FeatureStore

CHUNK_ROWS: Final = 500

_FIELDS: Final = {
    Dtype.STRING: "string_val",
    Dtype.INT64: "int64_val",
    Dtype.FLOAT32: "float_val",
    Dtype.BOOL: "bool_val",
    Dtype.STRINGS: "string_list_val",
    Dtype.INT64S: "int64_list_val",
    Dtype.FLOAT32S: "float_list_val",
}
_LISTS: Final[dict[Dtype, Callable[..., Any]]] = {
    Dtype.STRINGS: Value_pb2.StringList,
    Dtype.INT64S: Value_pb2.Int64List,
    Dtype.FLOAT32S: Value_pb2.FloatList,
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One entity's row of a view."""

    entity_id: str
    event_time: datetime  # what Feast calls the event timestamp: the moment the values hold for
    values: Mapping[str, FeatureValue]


def write_rows(store: FeatureStore, view: View, rows: Sequence[Row]) -> None:
    """Puts rows in place of what is there, whatever their times."""
    data: list[tuple[Any, dict[str, Any], datetime, datetime | None]] = [
        (
            _entity_key(view, row.entity_id),
            {feature.name: _to_proto(feature.dtype, row.values.get(feature.name)) for feature in view.features},
            whole_second(row.event_time),
            None,
        )
        for row in rows
    ]
    feast_view = store.get_feature_view(view.name, allow_registry_cache=True)
    with _explained(view):
        store.provider.online_write_batch(store.config, feast_view, data, None)


def read_rows(store: FeatureStore, view: View, entity_ids: Sequence[str]) -> list[Row | None]:
    """The row of each entity, None where there is none."""
    names = list(view.feature_names())
    found = _read(store, view, entity_ids, names)
    return [
        None
        if moment is None or values is None
        else Row(
            entity_id=entity_id,
            event_time=moment,
            values={f.name: _from_proto(f.dtype, values.get(f.name)) for f in view.features},
        )
        for entity_id, (moment, values) in zip(entity_ids, found, strict=True)
    ]


def read_times(store: FeatureStore, view: View, entity_ids: Sequence[str]) -> list[datetime | None]:
    """The event time of each entity's row, None where there is none."""
    return [moment for moment, _ in _read(store, view, entity_ids, [view.features[0].name])]


def whole_second(moment: datetime) -> datetime:
    """What the online store keeps of an event time: Feast's SQLite store knows no fractions."""
    return moment.replace(microsecond=0)


@contextmanager
def write_lock(store: FeatureStore) -> Iterator[None]:
    """Held while rows are read, changed and written: the follower and a materialization do not undo each other."""
    with (Path(store.repo_path) / "online.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(
    store: FeatureStore, view: View, entity_ids: Sequence[str], names: list[str]
) -> list[tuple[datetime | None, Mapping[str, Any] | None]]:
    feast_view = store.get_feature_view(view.name, allow_registry_cache=True)
    found: list[tuple[datetime | None, Mapping[str, Any] | None]] = []
    with _explained(view):
        for start in range(0, len(entity_ids), CHUNK_ROWS):
            keys = [_entity_key(view, entity_id) for entity_id in entity_ids[start : start + CHUNK_ROWS]]
            found += store.provider.online_read(store.config, feast_view, keys, list(names))
    # Redis answers for an unknown entity with empty values of 1970, SQLite with none
    return [(None, None) if moment is None or moment.timestamp() == 0 else (moment, row) for moment, row in found]


@contextmanager
def _explained(view: View) -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, sqlite3.Error, OSError) as error:
        raise FeatureStoreError(
            f"the online store did not take or give {view.name}: {error}; is it running and was "
            "`longtail features apply` run?"
        ) from error


def _entity_key(view: View, entity_id: str) -> Any:
    return EntityKey(join_keys=[view.entity], entity_values=[Value_pb2.Value(string_val=entity_id)])


def _to_proto(dtype: Dtype, value: FeatureValue) -> Any:
    if value is None:
        return Value_pb2.Value()
    field: Any = {_FIELDS[dtype]: _LISTS[dtype](val=value) if dtype in _LISTS else value}
    return Value_pb2.Value(**field)


def _from_proto(dtype: Dtype, value: Any) -> FeatureValue:
    if value is None or not value.HasField(_FIELDS[dtype]):
        return None
    found: Any = getattr(value, _FIELDS[dtype])
    listed: FeatureValue = list(found.val) if dtype in _LISTS else found
    return listed
