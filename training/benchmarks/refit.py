"""Measures what `longtail refit` gives: a model that learnt the whole log of its day beside the one that was measured.

    python -m training.benchmarks.refit --data DIR [--only NAME] [--seeds N] [--set NAME=VALUE]

The day is the 90 % quantile of the event times: both models know nothing later. One learnt all that came before, the
other is what `longtail train` makes of it, without the last tenth. Both are asked what came after, through their
SavedModels. Printed are CPU seconds, and NDCG@10 by slice with the paired difference per user ± two errors.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import typer

from feature_repo.layout import StateDir
from training import workflow
from training.artifact import TrainedModel
from training.benchmarks.data import BENCHMARKS, started
from training.evaluation.assessment import Assessment
from training.export.saved_model import export
from training.fitting.progress import Progress
from training.fitting.runs import Run
from training.release.incumbent import Published
from training.release.publish import write_user_weights
from training.reports.version_comparison import asked
from training.settings import TrainingSettings

DAY: Final = 0.9  # of the event times
SLICES: Final = ("all", "tail", "thinnest", "dormant", "head")


def published(model: TrainedModel, folder: Path) -> Published:
    """The model as it would be served."""
    weights = folder / "user_weights.parquet"
    write_user_weights(weights, model.user_weights(), now=datetime.fromtimestamp(model.window_us[1] / 1e6, UTC))
    directory = export(model, folder, retrieve_k=10, candidate_buckets=(100,), metrics={})
    return Published(version=model.version, directory=directory, user_weights=weights)


def measure(run: Run, folder: Path) -> tuple[Assessment, float, float]:
    """What both answer, and the CPU seconds of training and of the refit."""
    cut_us = int(np.quantile(run.log.time_us, DAY))
    until = replace(run, log=run.log.before(cut_us))
    began_s = time.process_time()
    measured = workflow.train(until, folder, version=1, resume=False, progress=Progress())
    trained_s = time.process_time() - began_s
    refitted = workflow.refit(until, folder, resume=False, progress=Progress())
    refitted_s = time.process_time() - began_s - trained_s
    versions = {
        "measured": published(measured, folder / "as-measured"),
        "refitted": published(refitted, folder / "as-refitted"),
    }
    later = run.with_settings(run.settings.model_copy(update={"test_from": DAY}))
    return asked(later, versions), trained_s, refitted_s


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks.refit", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="The folder of the data sets.")
    parser.add_argument("--only", default="ml-100k temporal", help="The data set, of temporal split.")
    parser.add_argument("--seeds", type=int, default=1, help="So many trainings; a user's values are their means.")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="A setting of [training].")
    given = parser.parse_args()
    data = {one.name: one for one in BENCHMARKS if one.split == "temporal"}.get(given.only)
    if data is None or not (given.data / data.folder).exists():
        parser.error(f"there is no temporal data set {given.only!r} in {given.data}")
    settings = TrainingSettings.model_validate(dict(pair.split("=", 1) for pair in given.set))
    ndcg: dict[str, list[np.ndarray]] = {"measured": [], "refitted": []}
    with TemporaryDirectory(prefix="longtail-benchmark-") as scratch:
        state = StateDir(Path(scratch) / "state")
        for seed in range(given.seeds):
            run = started(data, given.data, state, settings.model_copy(update={"seed": seed}))
            assessment, trained_s, refitted_s = measure(run, Path(scratch) / str(seed))
            share = refitted_s / trained_s
            typer.echo(f"seed {seed}: training {trained_s:.0f} CPU s, refit {refitted_s:.0f}: {share:.2f} of it")
            for name, values in ndcg.items():
                values.append(assessment.answers[name].per_user["ndcg"])
    before, after = (np.mean(ndcg[name], axis=0) for name in ("measured", "refitted"))
    for name in SLICES:
        users = assessment.slices.get(name)
        if users is None or not users.any():
            continue
        difference = after[users] - before[users]
        error = difference.std(ddof=1) / len(difference) ** 0.5
        typer.echo(
            f"{name:9s} {len(difference):6d} users  NDCG@10 {before[users].mean():.4f} → {after[users].mean():.4f}, "
            f"{difference.mean():+.4f} ± {2 * error:.4f}"
        )


if __name__ == "__main__":
    main()
