"""What reading a log for training takes, beside reading it as a table of strings: seconds and peak memory.

    python -m training.benchmarks.log [--events 2000000] [--memory 500MB] [--rounds 3]

The log is made up. Each way reads it in processes of its own, in turn; both give the same arrays, which is checked.
The peak is that of the whole process beyond what it had before the log was opened.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import typer

from feature_repo.benchmarks.made_log import write_events
from feature_repo.settings import FeatureSettings
from training.log.engagements import Engagements, from_frame
from training.log.log_reader import LogReader, open_log


@dataclass(frozen=True, kw_only=True)
class Read:
    """One reading of the log."""

    took_s: float  # CPU time
    peak_mb: float  # beyond what the process had before
    digest: str  # of what was read


def as_strings(reader: LogReader) -> Engagements:
    """By a data frame of the log's strings: what training did before."""
    frame = reader.con.to_pyarrow(reader.events.select("user_id", "item_id", "event_type", "event_time")).to_pandas()
    frame = frame[frame["event_type"].map(reader.settings.weight) > 0].sort_values("event_time", kind="stable")
    return from_frame(frame[~frame.assign(event_time=frame["event_time"].dt.floor("s")).duplicated()])


def as_codes(reader: LogReader) -> Engagements:
    """As training does."""
    return reader.engagements()


WAYS = {"a table of strings": as_strings, "codes from DuckDB": as_codes}


def read(directory: Path, way: str, memory: str) -> Read:
    """The log, read in this process."""
    import ibis.backends.duckdb  # noqa: F401  its own memory is not the log's

    before_mb, began_s = _peak_mb(), time.process_time()
    log = WAYS[way](open_log(directory, FeatureSettings(build_memory=memory)))
    took_s, peak_mb = time.process_time() - began_s, _peak_mb() - before_mb
    digest = hashlib.sha256()
    for values in (log.user, log.item, log.time_us, *(np.asarray(ids, str) for ids in (log.user_ids, log.item_ids))):
        digest.update(np.ascontiguousarray(values).tobytes())
    return Read(took_s=took_s, peak_mb=peak_mb, digest=digest.hexdigest())


def measure(directory: Path, memory: str, *, rounds: int) -> dict[str, list[Read]]:
    """Every way in turn, in a process each."""
    found: dict[str, list[Read]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[way].append(pool.apply(read, (directory, way, memory)))
    return found


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks.log", description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument(
        "--memory", default="500MB", help="features.build_memory: what DuckDB may take; more goes to disk"
    )
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with TemporaryDirectory(prefix="longtail-log-") as scratch:
        made_up(Path(scratch), given.events)
        found = measure(Path(scratch), given.memory, rounds=given.rounds)
    for way, reads in found.items():
        took_s, peak_mb = median(each.took_s for each in reads), median(each.peak_mb for each in reads)
        size = f"{peak_mb:7.0f} MB more at the peak, {peak_mb * 2**20 / given.events:5.0f} bytes an event"
        typer.echo(f"{way:20s} {took_s:6.1f} CPU s, {size}")
    same = len({each.digest for reads in found.values() for each in reads}) == 1
    typer.echo("both read the same" if same else "THEY DIFFER")
    raise SystemExit(0 if same else 1)


def made_up(directory: Path, events: int) -> None:
    """A log of one import."""
    write_events(directory / "made-up.parquet", events)


if __name__ == "__main__":
    main()
