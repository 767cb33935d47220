"""Feature tables of many moments, each what `build` gives as of it, as Parquet partitioned by moment.

`DIR/<view>/moment=<moment>/rows.parquet`, and below `DIR/.backfill` a watermark for each of them, written once the
table is whole: a run that was killed goes on where it stopped, and a later one computes anew what the log, the settings
or an erasure have changed since. The tables that are served stay as they are.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import ibis
import pyarrow.parquet as pq

from feature_repo.contract import View
from feature_repo.layout import StateDir
from feature_repo.locks import exclusive
from feature_repo.log.event_log import EventLog
from feature_repo.settings import FeatureSettings
from feature_repo.tables import build
from feature_repo.tables.engine import duckdb_engine
from feature_repo.tables.watermark import Inputs, Watermark, prints_of
from feature_repo.tabular import DataError, Report, silent

MOST_MOMENTS: Final = 10_000

_OWN: Final = ".backfill"
_NEVER_BUILT: Final = "new"


@dataclass(frozen=True, kw_only=True)
class Range:
    """From `first` on, every so often, to `last` at most."""

    first: datetime
    last: datetime
    every: timedelta

    def moments(self, *, now: datetime) -> list[datetime]:
        """In whole seconds, as a build's. Raises DataError for a range that makes no sense."""
        first, last = self.first.replace(microsecond=0), self.last.replace(microsecond=0)
        if last < first:
            raise DataError(f"the range ends before it begins: from {_name(first)} to {_name(last)}; swap the two")
        if last > now:
            raise DataError(f"the range ends at {_name(last)}, after now; tables of a moment that has not come lie")
        if self.every < timedelta(seconds=1):
            raise DataError(f"every {self.every.total_seconds():g} s is too often; give a second or more")
        count = (last - first) // self.every + 1
        if count > MOST_MOMENTS:
            raise DataError(
                f"these are {count} moments, each with tables of every user; at most {MOST_MOMENTS} are made at once. "
                "Give a shorter range or a longer --every"
            )
        return [first + place * self.every for place in range(count)]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Rows of the tables computed now, by view, and why they were; none when all were there, or `is_before_all`."""

    as_of: datetime
    rows: Mapping[str, int] = field(default_factory=dict)
    because: str = ""
    is_before_all: bool = False  # no event is before it


def backfill(
    state: StateDir,
    settings: FeatureSettings,
    asked: Range,
    out: Path,
    *,
    now: datetime,
    wanted: Sequence[View] = build.BUILT,
    report: Report = silent,
) -> Generator[Moment]:
    """The moments of the range in turn, each once its tables are in `out`.

    Raises DataError for a range that makes no sense, for one before all events, and while another backfill is at work
    in `out`.
    """
    moments, first_event = asked.moments(now=now), _first_event(state, asked)
    if moments[-1] <= first_event:
        raise DataError(
            f"no event is before {_name(moments[-1])}, the last moment; the first is of {_name(first_event)}"
        )
    out = out.absolute()
    if out.is_relative_to(state.features.absolute()):
        raise DataError(f"{out} is among the tables that are served; give a folder outside of {state.features}")
    try:
        (out / _OWN).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error}; give another folder") from error
    with exclusive(out / _OWN / "lock", _busy), EventLog(state.events).frozen() as (segments, end):
        job = _Job(state=state, settings=settings, out=out, segments=segments, inputs=Inputs.of(state, settings, end))
        for done, as_of in enumerate(moments):
            report("moments", done / len(moments))
            if as_of <= first_event:
                yield Moment(as_of=as_of, is_before_all=True)
            else:
                yield job.bring(as_of, wanted)
        report("moments", 1.0)


def table_file(out: Path, view: View, as_of: datetime) -> Path:
    """Where a view's table of a moment lies."""
    return out / view.name / f"moment={_name(as_of)}" / "rows.parquet"


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One run: the log as it was when it began."""

    state: StateDir
    settings: FeatureSettings
    out: Path
    segments: Sequence[Path]
    inputs: Inputs
    first_news: dict[str, datetime | None] = field(default_factory=dict)

    def bring(self, as_of: datetime, wanted: Sequence[View]) -> Moment:
        """Computes the tables that are not there, or no longer what a build would give."""
        outdated = [(view, reason) for view in wanted if (reason := self._outdated(view, as_of))]
        if not outdated:
            return Moment(as_of=as_of)
        rows = {}
        for view, written in self._write(as_of, tuple(view for view, _ in outdated)):
            file, mark = table_file(self.out, view, as_of), self._mark(view, as_of)
            file.parent.mkdir(parents=True, exist_ok=True)
            mark.unlink(missing_ok=True)
            written.replace(file)
            Watermark(as_of=as_of, inputs=self.inputs, tables=prints_of([file], self.out)).write_to(mark)
            rows[view.name] = pq.read_metadata(file).num_rows
        return Moment(as_of=as_of, rows=rows, because=outdated[0][1])

    def _write(self, as_of: datetime, wanted: tuple[View, ...]) -> list[tuple[View, Path]]:
        written = []
        with duckdb_engine(self.state, self.settings, silent, self.segments) as engine:
            events, items = engine.events(as_of), engine.items()
            for view, table in build.tables(engine, events, items, as_of=as_of, settings=self.settings, wanted=wanted):
                if view in wanted:  # not what only an incremental build reads
                    written.append((view, self.out / _OWN / f".{view.name}.parquet.unfinished"))
                    engine.write(view, table, written[-1][1])
        return written

    def _outdated(self, view: View, as_of: datetime) -> str:
        mark = Watermark.read_from(self._mark(view, as_of))
        if mark is None:
            return _NEVER_BUILT
        if prints_of([table_file(self.out, view, as_of)], self.out) != mark.tables:
            return "a table is not as it was left"
        if changed := self.inputs.since(mark.inputs):
            return changed
        first = self._first_news(mark.inputs)
        return "" if first is None or first >= as_of else "late events came"

    def _first_news(self, before: Inputs) -> datetime | None:
        """The earliest event that came since."""
        key = f"{before.end} {sorted(before.imports)}"
        if key not in self.first_news:
            log = EventLog(self.state.events)
            imports = [file for file in log.import_files() if file.name not in before.imports]
            with log.frozen_around(before.end) as (_, segments, _end):
                news = log.rows(ibis.duckdb.connect(), segments=segments, imports=imports)
                self.first_news[key] = news.event_time.min().to_pyarrow().as_py()
        return self.first_news[key]

    def _mark(self, view: View, as_of: datetime) -> Path:
        return self.out / _OWN / view.name / f"{_name(as_of)}.json"


def _first_event(state: StateDir, asked: Range) -> datetime:
    first: datetime | None = EventLog(state.events).rows(ibis.duckdb.connect()).event_time.min().to_pyarrow().as_py()
    if first is None:
        raise build.no_event(None, state, asked.last)
    return first


def _name(moment: datetime) -> str:
    return moment.strftime("%Y%m%dT%H%M%SZ")


def _busy(process: str) -> DataError:
    return DataError(f"another backfill into this folder is at work (process {process}); wait for it to end")
