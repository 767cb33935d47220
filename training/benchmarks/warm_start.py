"""Measures a training that starts from the last one's weights beside one from scratch, of the same log and seed.

    python -m training.benchmarks.warm_start --data DIR [--only NAME] [--set NAME=VALUE]

The last training knew the log up to its 90 % quantile; since then the rest came in. Printed are CPU seconds, and
NDCG@10 on the test of the whole log by slice, with the paired difference per user ± two errors.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import typer

from feature_repo.layout import StateDir
from training import workflow
from training.benchmarks.data import BENCHMARKS, started
from training.evaluation.assessment import MODEL, Assessment
from training.fitting.progress import Progress
from training.fitting.runs import Run
from training.reports import examination
from training.settings import TrainingSettings

KNOWN: Final = 0.9  # of the event times
SLICES: Final = ("all", "tail", "thinnest", "dormant")


def trained(run: Run, folder: Path, *, warm: bool) -> tuple[float, int, Assessment]:
    """CPU seconds, epochs of the search, and what the test says."""
    began_s = time.process_time()
    progress = Progress(on_note=typer.echo)
    model = workflow.train(run, folder, version=1, resume=False, warm=warm, progress=progress)
    return time.process_time() - began_s, len(model.curve), examination.evaluate(run, model)[1]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks.warm_start", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="The folder of the data sets.")
    parser.add_argument("--only", default="ml-100k temporal", help="The data set, of temporal split.")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="A setting of [training].")
    given = parser.parse_args()
    data = {one.name: one for one in BENCHMARKS if one.split == "temporal"}.get(given.only)
    if data is None or not (given.data / data.folder).exists():
        parser.error(f"there is no temporal data set {given.only!r} in {given.data}")
    settings = TrainingSettings.model_validate(dict(pair.split("=", 1) for pair in given.set))
    with TemporaryDirectory(prefix="longtail-benchmark-") as scratch:
        state = StateDir(Path(scratch))
        run = started(data, given.data, state, settings)
        earlier = replace(run, log=run.log.before(int(np.quantile(run.log.time_us, KNOWN))))
        typer.echo(f"{data.name}: the last training knows {len(earlier.log)} of {len(run.log)} events")
        last = Path(scratch) / "last"
        workflow.train(earlier, last, version=1, resume=False, progress=Progress())
        shutil.copytree(last / "checkpoints", Path(scratch) / "warm" / "checkpoints")
        scratch_s, scratch_epochs, cold = trained(run, Path(scratch) / "cold", warm=False)
        warm_s, warm_epochs, warm = trained(run, Path(scratch) / "warm", warm=True)
    typer.echo(f"from scratch {scratch_s:.0f} CPU s, {scratch_epochs} epochs of search")
    typer.echo(f"warm         {warm_s:.0f} CPU s, {warm_epochs} epochs of search: {warm_s / scratch_s:.2f} of it")
    for name in SLICES:
        users = cold.slices.get(name)
        if users is None or not users.any():
            continue
        before, after = (one.answers[MODEL].per_user["ndcg"][users] for one in (cold, warm))
        error = (after - before).std(ddof=1) / len(before) ** 0.5
        typer.echo(
            f"{name:9s} {len(before):6d} users  NDCG@10 {before.mean():.4f} → {after.mean():.4f}, "
            f"{(after - before).mean():+.4f} ± {2 * error:.4f}"
        )


if __name__ == "__main__":
    main()
