"""How a view's chunks get into the online store: several at a time, patiently, and from where a broken run stopped."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import pyarrow.parquet as pq

from feature_repo.contract import View
from feature_repo.layout import StateDir
from feature_repo.locks import exclusive
from feature_repo.online.redis_pipe import StoreUnavailableError
from feature_repo.online.rows import OnlineStore, unix_seconds
from feature_repo.online.store import FeatureStoreError
from feature_repo.settings import MaterializeSettings
from feature_repo.tables.build import offline_file

CHUNK_ROWS: Final = 2_000
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The first `done` rows of a table: `done` = `written` + `kept` + `older`."""

    done: int = 0
    written: int = 0
    kept: int = 0
    older: int = 0
    oldest_unix_s: int = 0
    newest_unix_s: int = 0


def chunks(file: Path, columns: list[str], *, skip_rows: int = 0) -> Iterator[tuple[int, Any]]:
    """Batches with how many rows of the file each stands for."""
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(CHUNK_ROWS, columns=columns):
            skipped = min(skip_rows, batch.num_rows)
            skip_rows -= skipped
            if skipped < batch.num_rows:
                yield batch.num_rows - skipped, batch.slice(skipped)


def load_chunks(
    view: View,
    source: Iterator[tuple[int, Any]],
    *,
    before: Loaded,
    connect: Callable[[], OnlineStore],
    limits: MaterializeSettings,
) -> Iterator[Loaded]:
    """Loads the chunks over several connections and yields, in the table's order, what is loaded up to there."""
    rate, loaded = Rate(limits.rows_per_s), before
    stores: SimpleQueue[OnlineStore] = SimpleQueue()
    for _ in range(limits.connections):
        stores.put(connect())
    pending: deque[tuple[int, Any, Future[int]]] = deque()

    def load(batch: Any) -> int:
        online = stores.get()
        try:
            return patiently(lambda: online.load(view, batch), patience_s=limits.patience_s)
        finally:
            stores.put(online)

    with ThreadPoolExecutor(limits.connections, thread_name_prefix="load") as threads:
        try:
            for rows, batch in source:
                rate.wait_for(rows)
                pending.append((rows, batch, threads.submit(load, batch)))
                if len(pending) > limits.connections:
                    yield (loaded := _with(loaded, *pending.popleft()))
            while pending:
                yield (loaded := _with(loaded, *pending.popleft()))
        finally:
            threads.shutdown(cancel_futures=True)
            while not stores.empty():
                stores.get().close()


def patiently(attempt: Callable[[], int], *, patience_s: float, sleep: Callable[[float], None] = time.sleep) -> int:
    """Tries again, with pauses that double, while the store does not answer; then its error is raised."""
    pause_s, deadline_s = _FIRST_PAUSE_S, time.monotonic() + patience_s
    while True:
        try:
            return attempt()
        except StoreUnavailableError:
            if time.monotonic() + pause_s > deadline_s:
                raise
            sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class Rate:
    """At most so many rows per second; 0 is no limit."""

    def __init__(self, rows_per_s: float) -> None:
        self._rows_per_s = rows_per_s
        self._next_s = time.monotonic()

    def wait_for(self, rows: int) -> None:
        if not self._rows_per_s:
            return
        time.sleep(max(0.0, self._next_s - time.monotonic()))
        self._next_s = max(self._next_s, time.monotonic()) + rows / self._rows_per_s


class LoadingRecord:
    """How far the load of a table got, on disk: of this very file with this very `since`, else nothing."""

    def __init__(self, state: StateDir, view: View, since: datetime | None) -> None:
        table = offline_file(state, view)
        stat = table.stat()
        self._file = state.feast / f"loading-{view.name}.json"
        config = state.feast / "feature_store.yaml"
        self._of = [stat.st_size, stat.st_mtime_ns, str(since), config.stat().st_mtime_ns if config.exists() else 0]

    def read(self) -> Loaded:
        try:
            found = json.loads(self._file.read_text())
            return Loaded(**found["loaded"]) if found["of"] == self._of else Loaded()
        except (OSError, ValueError, KeyError, TypeError):
            return Loaded()

    def write(self, loaded: Loaded) -> None:
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"of": self._of, "loaded": asdict(loaded)}))
        unfinished.replace(self._file)

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)


@contextmanager
def one_at_a_time(state: StateDir) -> Iterator[None]:
    """Refuses a second materialization or erasure in this state directory."""
    with exclusive(state.feast / "materialize.lock", _busy):
        yield


def _busy(process: str) -> FeatureStoreError:
    return FeatureStoreError(f"another materialization or erasure is at work (process {process}); wait for it to end")


def _with(loaded: Loaded, rows: int, batch: Any, kept: Future[int]) -> Loaded:
    count, times = kept.result(), unix_seconds(batch)
    loaded = replace(
        loaded,
        done=loaded.done + rows,
        written=loaded.written + batch.num_rows - count,
        kept=loaded.kept + count,
        older=loaded.older + rows - batch.num_rows,
    )
    if not len(times):
        return loaded
    oldest = min(int(times.min()), loaded.oldest_unix_s or int(times.min()))
    return replace(loaded, oldest_unix_s=oldest, newest_unix_s=max(int(times.max()), loaded.newest_unix_s))
