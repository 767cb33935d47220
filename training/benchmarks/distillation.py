"""Measures a student beside its teacher, and beside a model of the student's size that had none.

    python -m training.benchmarks.distillation --data DIR [--only NAME] [--set NAME=VALUE] [--seeds 1] [--rounds 100]

Each is trained on one log, exported, and asked the test of its temporal split; the teacher once more with no more
neighbours than the student has, since not all of a difference is the network's. Printed are the bytes of the export,
CPU milliseconds of `rank` (200 candidates, 50 behaviours each, one core, exports in turn), and NDCG@10 by slice with
the paired difference per user ± two errors; of several seeds, of a user's mean over them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import typer

from feature_repo.layout import StateDir
from training import workflow
from training.benchmarks.data import BENCHMARKS, started
from training.benchmarks.inference import CANDIDATES, CASES, Took, measure
from training.evaluation.assessment import MODEL, Assessment
from training.export.saved_model import export
from training.fitting import runs
from training.fitting.distillation import student_settings
from training.fitting.progress import Progress
from training.reports import examination
from training.reports.compression_report import size_mb
from training.settings import TrainingSettings

TEACHER: Final = "teacher"
FEWER: Final = "fewer neighbours"  # the teacher with as many as the student
STUDENT: Final = "student"
ALONE: Final = "without a teacher"
PAIRS: Final = ((FEWER, TEACHER), (STUDENT, TEACHER), (ALONE, TEACHER), (STUDENT, ALONE))
ASKED: Final = [case for case in CASES if case.signature == "rank" and case.history == 50]
SLICES: Final = ("all", "tail", "thinnest", "dormant")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One model of one seed."""

    exported: Path
    train_cpu_s: float
    curve: list[float]  # validation NDCG@10 of the network, by epoch of the search
    assessment: Assessment


def train_all(run: runs.Run, folder: Path) -> dict[str, Trained]:
    """All on one log and seed."""
    teacher = _trained(run, folder / "one", folder / TEACHER)
    blended_anew = run.settings.model_copy(update={"neighbours": run.settings.student_neighbours})
    fewer = _trained(run.with_settings(blended_anew), folder / "one", folder / FEWER, resume=True)
    student = _trained(workflow.student_run(run, folder / "one"), folder / "one", folder / STUDENT)
    alone = _trained(run.with_settings(student_settings(run.settings)), folder / "other", folder / ALONE)
    return {TEACHER: teacher, FEWER: fewer, STUDENT: student, ALONE: alone}


def _trained(run: runs.Run, training: Path, exports: Path, *, resume: bool = False) -> Trained:
    began_s = time.process_time()
    model = workflow.train(run, training, version=1, resume=resume, progress=Progress())
    took_s = time.process_time() - began_s
    exported = export(model, exports, retrieve_k=CANDIDATES, candidate_buckets=(CANDIDATES,), metrics={})
    _, assessment = examination.evaluate(run, model)
    curve = [float(epoch["validation_ndcg"]) for epoch in model.curve]
    return Trained(exported=exported, train_cpu_s=took_s, curve=curve, assessment=assessment)


def cost_table(trained: Mapping[str, Trained], took: Sequence[Took]) -> str:
    """Bytes and milliseconds."""
    lines = []
    for name, one in trained.items():
        cells = "  ".join(
            f"{each.median_ms:6.2f} ms for {each.case.users} (best {each.best_ms:.2f})"
            for each in took
            if each.model == str(one.exported)
        )
        train = f"trained in {one.train_cpu_s:.0f} CPU s, validation {max(one.curve):.4f} in {len(one.curve)} epochs"
        lines.append(f"{name:18s} {size_mb(one.exported):6.2f} MB  rank {cells}  {train}")
    return "\n".join(lines)


def quality_table(seeds: Sequence[Mapping[str, Trained]]) -> str:
    """NDCG@10 by slice, and the student's difference to the others."""
    lines = []
    slices = seeds[0][TEACHER].assessment.slices
    for slice_name in (name for name in SLICES if name in slices and slices[name].any()):
        users = slices[slice_name]
        ndcg = {
            name: np.mean([seed[name].assessment.answers[MODEL].per_user["ndcg"][users] for seed in seeds], axis=0)
            for name in seeds[0]
        }
        means = ", ".join(f"{name} {values.mean():.4f}" for name, values in ndcg.items())
        lines.append(f"{slice_name} ({users.sum()} users): {means}")
        for first, second in PAIRS:
            apart = ndcg[first] - ndcg[second]
            error = apart.std(ddof=1) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
            lines.append(f"    {first} less {second}: {apart.mean():+.4f} ± {2 * error:.4f}")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks.distillation", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="The folder of the data sets.")
    parser.add_argument("--only", default="ml-100k temporal", help="The data set, of temporal split.")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="A setting of [training].")
    parser.add_argument("--seeds", type=int, default=1, help="Seeds 0, 1, … of all of them.")
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    data = {one.name: one for one in BENCHMARKS if one.split == "temporal"}.get(given.only)
    if data is None or not (given.data / data.folder).exists():
        parser.error(f"there is no temporal data set {given.only!r} in {given.data}")
    settings = TrainingSettings.model_validate(dict(pair.split("=", 1) for pair in given.set))
    with TemporaryDirectory(prefix="longtail-benchmark-") as scratch:
        state = StateDir(Path(scratch))
        run = started(data, given.data, state, settings)
        seeds: list[dict[str, Trained]] = []
        for seed in range(given.seeds):
            once = run.with_settings(run.settings.model_copy(update={"seed": seed}))
            seeds.append(train_all(once, Path(scratch) / f"seed-{seed}"))
            typer.echo(f"{data.name}, seed {seed}\n{quality_table(seeds[-1:])}")
        exports = [one.exported for one in seeds[0].values()]
        took = [each for case in ASKED for each in measure(exports, case, rounds=given.rounds)]
        typer.echo(f"\n{cost_table(seeds[0], took)}")
    typer.echo(f"\nmean of {given.seeds} seeds\n{quality_table(seeds)}")


if __name__ == "__main__":
    main()
