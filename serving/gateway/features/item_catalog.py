"""Item statistics from the Parquet file that Feast has as the source of `item_stats`, kept in memory."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from prometheus_client import Gauge

from feature_repo.contract import ITEM_STATS
from feature_repo.errors import LongtailError
from feature_repo.feast_api import FeatureStore, FileSource
from serving.gateway.features.item_table import ItemTable

COLUMNS: Final = (
    "item_id",
    "title",
    "novelty_bits",
    "popularity_percentile",
    "first_seen_unix_s",
    "withdrawn",
    "category",
    "exposures",
    "engagement_rate",
    "event_timestamp",
)

_log = logging.getLogger(__name__)


class ParquetItemCatalog:
    """The table is replaced whole when the file changed; a file that cannot be read leaves the last good one."""

    def __init__(self, path: Path, *, count: Gauge) -> None:
        self._path = path
        self._count = count
        self._seen: tuple[int, int, int] | None = None
        self.items = ItemTable.empty()

    async def refresh(self) -> None:
        """Loads the file in a thread if it is another than last time."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self.items = await asyncio.to_thread(load, self._path)
        except (OSError, pa.ArrowException) as error:
            _log.error("item statistics %s not read, %d items stay: %s", self._path, len(self.items.ids), error)
            return
        self._count.set(len(self.items.ids))
        _log.info("%d items from %s", len(self.items.ids), self._path)


def source_path(store: FeatureStore) -> Path:
    """Where Feast has the rows of `item_stats`."""
    source = store.get_feature_view(ITEM_STATS.name).batch_source
    if not isinstance(source, FileSource):
        raise LongtailError(f"the source of {ITEM_STATS.name} is no file; run `longtail features apply`")
    return Path(store.repo_path, source.path).resolve()


def load(path: Path) -> ItemTable:
    """The newest row of each item."""
    table = pq.read_table(path, columns=list(COLUMNS))
    table = table.sort_by([("event_timestamp", "descending")])
    table = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    newest = pc.sort_indices(table.group_by("item_id").aggregate([("row", "min")])["row_min"])
    rows = table.group_by("item_id").aggregate([("row", "min")])["row_min"].take(newest)
    table = table.take(rows)
    return ItemTable.of(
        {
            name: column.to_pylist() if _is_text(column.type) else column.to_numpy(zero_copy_only=False)
            for name, column in zip(table.column_names, table.columns, strict=True)
            if name in COLUMNS[:-1]
        }
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
