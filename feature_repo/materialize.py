"""The offline tables → the online store, every row whatever its age; and the proof that it is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.build import EVENT_TIMESTAMP, offline_file
from feature_repo.contract import USER_BEHAVIOR, VIEWS, View
from feature_repo.layout import StateDir
from feature_repo.online import CHUNK_ROWS, Row, read_times, whole_second, write_lock, write_rows
from feature_repo.store import FeatureStoreError
from feature_repo.tabular import Report, silent

if TYPE_CHECKING:
    from feast import FeatureStore

COUNTED_ROWS: Final = 100_000  # rows read back per view; beyond it, that many spread evenly


@dataclass(frozen=True, kw_only=True)
class Materialized:
    """What became of one view: `rows` = `written` + `kept` (a newer row was there) + `older` (than --since)."""

    view: str
    rows: int
    written: int
    kept: int
    older: int


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """One view offline and online; of `counted` offline rows, how many are missing or older online."""

    view: str
    offline_rows: int | None  # None: not built
    counted: int = 0
    missing: int = 0
    older: int = 0
    newest: datetime | None = None  # offline
    oldest_online: datetime | None = None

    @property
    def agrees(self) -> bool:
        """Whether online has all that offline has."""
        return not (self.missing or self.older)


def materialize(
    state: StateDir, store: FeatureStore, *, since: datetime | None = None, report: Report = silent
) -> list[Materialized]:
    """Loads each view that was built; with `since`, only rows of that time or later.

    Raises FeatureStoreError when the online store then lacks a row.
    """
    done = []
    for view in VIEWS:
        if not offline_file(state, view).exists():
            continue
        done.append(_load(state, store, view, since, report))
        if since is None:
            _assert_complete(check_view(state, store, view))
    if not done:
        raise FeatureStoreError(f"there is nothing to load in {state.features}; run `longtail features build`")
    return done


def check(state: StateDir, store: FeatureStore) -> list[Freshness]:
    """Compares every view of the contract."""
    return [check_view(state, store, view) for view in VIEWS]


def check_view(state: StateDir, store: FeatureStore, view: View) -> Freshness:
    """Reads back the online rows of the offline table's entities."""
    if not offline_file(state, view).exists():
        return Freshness(view=view.name, offline_rows=None)
    total, counted, missing, older = _row_count(state, view), 0, 0, 0
    newest: datetime | None = None
    oldest_online: datetime | None = None
    step = max(1, total // COUNTED_ROWS)
    for number, rows in enumerate(_chunks(state, view, [])):
        newest = max([row.event_time for row in rows] + ([newest] if newest else []))
        if number % step:
            continue
        times = read_times(store, view, [row.entity_id for row in rows])
        counted += len(rows)
        missing += sum(time is None for time in times)
        older += sum(time is not None and time < row.event_time for row, time in zip(rows, times, strict=True))
        present = [time for time in times if time is not None] + ([oldest_online] if oldest_online else [])
        oldest_online = min(present, default=None)
    return Freshness(
        view=view.name,
        offline_rows=total,
        counted=counted,
        missing=missing,
        older=older,
        newest=newest,
        oldest_online=oldest_online,
    )


def _load(state: StateDir, store: FeatureStore, view: View, since: datetime | None, report: Report) -> Materialized:
    total, written, kept, older = _row_count(state, view), 0, 0, 0
    times: list[datetime] = []
    for rows in _chunks(state, view, list(view.feature_names())):
        wanted = [row for row in rows if since is None or row.event_time >= since]
        older += len(rows) - len(wanted)
        with write_lock(store):
            current = _without_newer(store, view, wanted)
            if current:
                write_rows(store, view, current)
        written += len(current)
        kept += len(wanted) - len(current)
        times += [min(row.event_time for row in rows), max(row.event_time for row in rows)]
        report(f"load {view.name}", (written + kept + older) / total)
    if times and written:
        store.registry.apply_materialization(store.get_feature_view(view.name), store.project, min(times), max(times))
    return Materialized(view=view.name, rows=total, written=written, kept=kept, older=older)


def _without_newer(store: FeatureStore, view: View, rows: Sequence[Row]) -> list[Row]:
    """Leaves out rows that feedback has brought up to date since the build."""
    if view is not USER_BEHAVIOR:
        return list(rows)
    times = read_times(store, view, [row.entity_id for row in rows])
    return [row for row, time in zip(rows, times, strict=True) if time is None or time <= row.event_time]


def _assert_complete(freshness: Freshness) -> None:
    if not freshness.agrees:
        raise FeatureStoreError(
            f"{freshness.view}: of {freshness.counted} rows read back, {freshness.missing} are missing and "
            f"{freshness.older} are older online; does the online store evict or expire keys?"
        )


def _chunks(state: StateDir, view: View, names: list[str]) -> Iterator[list[Row]]:
    with pq.ParquetFile(offline_file(state, view)) as file:
        for batch in file.iter_batches(CHUNK_ROWS, columns=[view.entity, EVENT_TIMESTAMP, *names]):
            yield [_row(view, values) for values in _pylist(batch)]


def _row(view: View, values: dict[str, object]) -> Row:
    entity_id, event_time = str(values.pop(view.entity)), values.pop(EVENT_TIMESTAMP)
    assert isinstance(event_time, datetime)
    return Row(entity_id=entity_id, event_time=whole_second(event_time), values=values)  # type: ignore[arg-type]


def _pylist(batch: pa.RecordBatch) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = batch.to_pylist()
    return rows


def _row_count(state: StateDir, view: View) -> int:
    return int(pq.read_metadata(offline_file(state, view)).num_rows)
