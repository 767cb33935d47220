"""The offline tables → the online store, every row whatever its age; and the proof that it is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.contract import USER_VIEWS, VIEWS, View
from feature_repo.layout import StateDir
from feature_repo.online.loading import Loaded, LoadingRecord, chunks, load_chunks, one_at_a_time
from feature_repo.online.redis_rows import RedisOnline
from feature_repo.online.rows import EVENT_TIMESTAMP, online_of, unix_seconds
from feature_repo.online.store import FeatureStoreError, redis_url, registered_view
from feature_repo.settings import MaterializeSettings
from feature_repo.tables.build import offline_file
from feature_repo.tabular import Report, silent

if TYPE_CHECKING:
    from feature_repo.feast_api import FeatureStore

COUNTED_ROWS: Final = 100_000  # rows read back per view; beyond it, that many spread evenly
ENCODED_USERS: Final = 50  # looked at for how Redis keeps them


@dataclass(frozen=True, kw_only=True)
class Materialized:
    """What became of one view: `rows` = `written` + `kept` (a newer row was there) + `older` (than --since).

    Of a kept row the columns that only a build changes were written all the same. `resumed_at` rows were loaded by an
    earlier run that was broken off.
    """

    view: str
    rows: int
    written: int
    kept: int
    older: int
    resumed_at: int = 0


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
    state: StateDir,
    store: FeatureStore,
    *,
    since: datetime | None = None,
    full: bool = False,
    limits: MaterializeSettings | None = None,
    report: Report = silent,
) -> list[Materialized]:
    """Loads each view that was built; with `since`, only rows of that time or later.

    A run that was broken off is gone on with, unless `full`. Raises FeatureStoreError when the online store then lacks
    a row, or while another run is at work.
    """
    limits = limits or MaterializeSettings()
    if store.config.online_store.type == "sqlite":
        limits = limits.model_copy(update={"connections": 1})  # it has one writer at a time
    job = _Job(state=state, store=store, since=since, limits=limits, report=report)
    built = [view for view in VIEWS if offline_file(state, view).exists()]
    if not built:
        raise FeatureStoreError(f"there is nothing to load in {state.features}; run `longtail features build`")
    for view in built:
        registered_view(store, view)
    with one_at_a_time(state):
        return [job.materialize(view, full=full) for view in built]


def memory_advice(state: StateDir, store: FeatureStore) -> str:
    """What to do where Redis keeps users as hash tables, which take twice the memory; empty where it does not."""
    view = next((view for view in USER_VIEWS if offline_file(state, view).exists()), None)
    if view is None or store.config.online_store.type != "redis":
        return ""
    _, batch = next(chunks(offline_file(state, view), [view.entity]), (0, None))
    users = [] if batch is None else batch.column(view.entity).to_pylist()[:ENCODED_USERS]
    online = RedisOnline(redis_url(store.config.online_store.connection_string))
    try:
        loose = online.encodings(view, users).count("hashtable")
    except FeatureStoreError:  # not worth failing for: the rows are in
        return ""
    finally:
        online.close()
    if not loose:
        return ""
    return (
        f"Redis keeps {loose} of {len(users)} users looked at as hash tables, which take twice the memory: set "
        "hash-max-listpack-value to 4096 (hash-max-ziplist-value before Redis 7), or more for longer item ids. "
        "Users who are there already change when Redis restarts or is filled anew"
    )


def check(state: StateDir, store: FeatureStore) -> list[Freshness]:
    """Compares every view of the contract."""
    return [check_view(state, store, view) for view in VIEWS]


def check_view(state: StateDir, store: FeatureStore, view: View) -> Freshness:
    """Reads back the online rows of the offline table's entities."""
    file = offline_file(state, view)
    if not file.exists():
        return Freshness(view=view.name, offline_rows=None)
    total = int(pq.read_metadata(file).num_rows)
    online, counted, missing, older = online_of(store), 0, 0, 0
    newest_s, oldest_s = 0, 0
    for number, (_, batch) in enumerate(chunks(file, [view.entity, EVENT_TIMESTAMP])):
        offline_s = unix_seconds(batch)
        newest_s = max(newest_s, int(offline_s.max()))
        if number % max(1, total // COUNTED_ROWS):
            continue
        online_s = online.times(view, batch.column(view.entity).to_pylist())
        is_there = online_s > 0
        counted += len(online_s)
        missing += int((~is_there).sum())
        older += int((is_there & (online_s < offline_s)).sum())
        oldest_s = min([*online_s[is_there].tolist(), *([oldest_s] if oldest_s else [])], default=0)
    online.close()
    return Freshness(
        view=view.name,
        offline_rows=total,
        counted=counted,
        missing=missing,
        older=older,
        newest=_moment(newest_s),
        oldest_online=_moment(oldest_s),
    )


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One materialization: what stays the same from view to view."""

    state: StateDir
    store: FeatureStore
    since: datetime | None
    limits: MaterializeSettings
    report: Report

    def materialize(self, view: View, *, full: bool) -> Materialized:
        before = Loaded() if full else LoadingRecord(self.state, view, self.since).read()
        done = self._load(view, before)
        if self.since is None:
            freshness = check_view(self.state, self.store, view)
            if not freshness.agrees and before.done:  # the store lost what the run that was broken off had written
                before = Loaded()
                done = self._load(view, before)
                freshness = check_view(self.state, self.store, view)
            _assert_complete(freshness)
        return Materialized(
            view=view.name,
            rows=done.done,
            written=done.written,
            kept=done.kept,
            older=done.older,
            resumed_at=before.done,
        )

    def _load(self, view: View, before: Loaded) -> Loaded:
        file, record = offline_file(self.state, view), LoadingRecord(self.state, view, self.since)
        total = max(1, int(pq.read_metadata(file).num_rows))
        columns = [view.entity, EVENT_TIMESTAMP, *view.feature_names()]
        source = _wanted(chunks(file, columns, skip_rows=before.done), self.since)
        loaded = before
        try:
            for loaded in load_chunks(
                view, source, before=before, connect=lambda: online_of(self.store), limits=self.limits
            ):
                record.write(loaded)
                self.report(f"load {view.name}", loaded.done / total)
        except FeatureStoreError as error:
            raise FeatureStoreError(
                f"{view.name}: {loaded.done} of {total} rows are loaded, then: {error}. "
                "Run `longtail features materialize` again: it goes on from there"
            ) from error
        record.remove()
        if loaded.written or loaded.kept:  # of a kept row the build's columns were written
            _register(self.store, view, loaded)
        return loaded


def loaded_until(store: FeatureStore, view: View) -> datetime:
    """The time of the newest table that `materialize` loaded to its end; 1970 when none was."""
    ends = [end for _, end in store.get_feature_view(view.name).materialization_intervals]
    return max([datetime.fromtimestamp(0, UTC), *(end.astimezone(UTC) for end in ends)])


def _register(store: FeatureStore, view: View, loaded: Loaded) -> None:
    """Tells Feast's registry which times are there."""
    first, last = (datetime.fromtimestamp(unix_s, UTC) for unix_s in (loaded.oldest_unix_s, loaded.newest_unix_s))
    store.registry.apply_materialization(store.get_feature_view(view.name), store.project, first, last)


def _wanted(source: Iterator[tuple[int, Any]], since: datetime | None) -> Iterator[tuple[int, Any]]:
    for rows, batch in source:
        if since is None:
            yield rows, batch
        else:
            least = pa.scalar(since, pa.timestamp("us", "UTC"))
            yield rows, batch.filter(pc.greater_equal(batch.column(EVENT_TIMESTAMP), least))


def _assert_complete(freshness: Freshness) -> None:
    if not freshness.agrees:
        raise FeatureStoreError(
            f"{freshness.view}: of {freshness.counted} rows read back, {freshness.missing} are missing and "
            f"{freshness.older} are older online; does the online store evict or expire keys?"
        )


def _moment(unix_s: int) -> datetime | None:
    return datetime.fromtimestamp(unix_s, UTC) if unix_s else None
