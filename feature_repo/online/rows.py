"""Rows of the online store, in Feast's own format and past Feast's slow paths: the port and its rows.

A column belongs to the build or to the stream (`streamed`). Loading a build writes the build's columns always, and the
stream's only where the row online is not newer; streaming writes the stream's alone. Each is one atomic step of the
store per row, so that nobody reads half a row and neither undoes the other, also from several machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.contract import Dtype, Feature, FeatureValue, View
from feature_repo.layout import StateDir
from feature_repo.online.value_bytes import ARROW_TYPES
from feature_repo.settings import FeatureSettings

if TYPE_CHECKING:
    from feature_repo.feast_api import FeatureStore

EVENT_TIMESTAMP: Final = "event_timestamp"

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One entity's row of a view."""

    entity_id: str
    event_time: datetime  # what Feast calls the event timestamp: the moment the values hold for
    values: Mapping[str, FeatureValue]


class OnlineStore(Protocol):
    """`batch` has the view's entity, `event_timestamp` and features as columns. All raise FeatureStoreError."""

    def load(self, view: View, batch: pa.RecordBatch) -> int:
        """Writes what a build gave; returns how many rows kept the newer values of the stream."""
        ...

    def stream(self, view: View, batch: pa.RecordBatch) -> None:
        """Writes the streamed columns; a new row gets the contract's defaults in the others."""
        ...

    def read(self, view: View, entity_ids: Sequence[str]) -> list[Row | None]:
        """The row of each entity, None where there is none."""
        ...

    def times(self, view: View, entity_ids: Sequence[str]) -> Int64s:
        """Whole seconds since 1970 of each entity's row, 0 where there is none."""
        ...

    def erase(self, entity: str, entity_id: str) -> dict[str, int]:
        """Removes the entity; the values removed, by view."""
        ...

    def close(self) -> None: ...


def open_online(state: StateDir, settings: FeatureSettings) -> OnlineStore:
    """The store that `longtail features apply` made. Opening it waits for nothing."""
    from feature_repo.online.redis_rows import RedisOnline
    from feature_repo.online.sqlite_rows import SqliteOnline

    if settings.online_store == "redis":
        return RedisOnline(settings.redis_url)
    return SqliteOnline(state.feast / "online.db")


def online_of(store: FeatureStore) -> OnlineStore:
    """The same from Feast's own configuration of an opened store."""
    from feature_repo.online.redis_rows import RedisOnline
    from feature_repo.online.sqlite_rows import SqliteOnline
    from feature_repo.online.store import redis_url

    if store.config.online_store.type == "redis":
        return RedisOnline(redis_url(store.config.online_store.connection_string))
    return SqliteOnline(store.repo_path / "online.db")


def as_batch(view: View, rows: Sequence[Row], names: Sequence[str] | None = None) -> pa.RecordBatch:
    """Rows as columns; `names` are the features to take, all by default."""
    features = [feature for feature in view.features if names is None or feature.name in names]
    times = [whole_second(row.event_time) for row in rows]
    return pa.RecordBatch.from_pydict(
        {
            view.entity: pa.array([row.entity_id for row in rows], pa.string()),
            EVENT_TIMESTAMP: pa.array(times, pa.timestamp("us", "UTC")),
            **{f.name: pa.array([row.values.get(f.name) for row in rows], ARROW_TYPES[f.dtype]) for f in features},
        }
    )


def unix_seconds(batch: pa.RecordBatch) -> Int64s:
    """The event times of the rows."""
    seconds: Int64s = np.asarray(batch.column(EVENT_TIMESTAMP).cast(pa.timestamp("us", "UTC")).cast(pa.int64()))
    return seconds // 1_000_000


def whole_second(moment: datetime) -> datetime:
    """What the online store keeps of an event time: Feast's SQLite store knows no fractions."""
    return moment.replace(microsecond=0)


def filled(batch: pa.RecordBatch, built: Sequence[Feature]) -> pa.RecordBatch:
    """With the contract's defaults as the columns that only a build knows."""
    for feature in built:
        dtype = ARROW_TYPES[feature.dtype]
        cells = pa.array([feature.default], dtype).take(pa.array(np.zeros(batch.num_rows, np.int32)))
        batch = batch.append_column(feature.name, cells)
    return batch


def decoded_row(view: View, entity_id: str, unix_s: int, cells: Mapping[str, bytes | None]) -> Row:
    """A row from serialized `Value`s by feature name."""
    from feature_repo.feast_api import Value

    return Row(
        entity_id=entity_id,
        event_time=datetime.fromtimestamp(unix_s, UTC),
        values={f.name: _decoded(f.dtype, Value.FromString(cells.get(f.name) or b"")) for f in view.features},
    )


def _decoded(dtype: Dtype, value: Any) -> FeatureValue:
    kind = value.WhichOneof("val")
    if kind is None:
        return None
    found: Any = getattr(value, kind)
    cell: FeatureValue = list(found.val) if dtype in (Dtype.STRINGS, Dtype.INT64S, Dtype.FLOAT32S) else found
    return cell
