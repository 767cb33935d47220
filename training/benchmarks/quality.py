"""Measures the recommender beside its peers on public data sets, through the product's own import and workflow.

    python -m training.benchmarks.quality --data DIR [--only online_retail] [--seeds 3] [--peers]

Prints NDCG@10 and Recall@10 by slice, and the paired difference to the best peer of each slice over all seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import typer

from feature_repo.layout import StateDir
from training import workflow
from training.benchmarks.data import BENCHMARKS, BenchmarkData, started
from training.evaluation.assessment import MODEL, Assessment
from training.examples.split import split
from training.fitting.progress import Progress
from training.fitting.runs import Run
from training.reports import examination
from training.settings import TrainingSettings

SLICES = ("all", "tail", "thinnest", "head", "dormant")
OWN = MODEL


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One data set, all seeds: per-user values are means over the seeds."""

    slices: Mapping[str, np.ndarray]  # bool [users]
    per_user: Mapping[str, Mapping[str, np.ndarray]]  # scorer → metric → float64 [users]
    cpu_s: float  # of one seed


def measure(
    data: BenchmarkData, folder: Path, work: Path, settings: TrainingSettings, seeds: int, *, peers: bool
) -> Measured:
    """Imports, trains with each seed, and asks the test."""
    state = StateDir(work / data.folder)
    assessments, began_s = [], time.process_time()
    for seed in range(1 if peers else seeds):
        run = started(data, folder, state, settings.model_copy(update={"seed": seed}))
        assessments.append(_assess(run, data, state.training / str(seed), peers=peers))
    return Measured(
        slices=assessments[0].slices,
        per_user={
            scorer: {
                metric: np.mean([one.answers[scorer].per_user[metric] for one in assessments], axis=0)
                for metric in ("ndcg", "recall", "auc")
            }
            for scorer in assessments[0].answers
        },
        cpu_s=(time.process_time() - began_s) / len(assessments),
    )


def _assess(run: Run, data: BenchmarkData, folder: Path, *, peers: bool) -> Assessment:
    if peers:
        question = split(run.log, data.split, run.settings).test
        return examination.assess_peers(run, question)
    progress = Progress(on_epoch=lambda epoch: typer.echo(f"  {epoch}"))
    if data.split == "temporal":
        model = workflow.train(run, folder, version=1, resume=False, progress=progress)
        return examination.evaluate(run, model)[1]
    return examination.evaluate_leave_one_out(run, folder, resume=False, progress=progress)[1]


def rows_of(measured: Measured) -> Iterator[dict[str, Any]]:
    """One row per slice and scorer; ours says by how much it leads the best peer of the slice."""
    for name in SLICES:
        users = measured.slices.get(name)
        if users is None or not users.any():
            continue
        means = {scorer: float(values["ndcg"][users].mean()) for scorer, values in measured.per_user.items()}
        peers = {scorer: value for scorer, value in means.items() if not scorer.startswith(OWN)}
        best = max(peers, key=lambda scorer: peers[scorer])
        for scorer, values in measured.per_user.items():
            row = {"slice": name, "users": int(users.sum()), "scorer": scorer, "ndcg": means[scorer]}
            row |= {metric: float(np.nanmean(values[metric][users])) for metric in ("recall", "auc")}
            if scorer.startswith(OWN):
                lead = (values["ndcg"] - measured.per_user[best]["ndcg"])[users]
                row |= {
                    "best_peer": best,
                    "lead": float(lead.mean()),
                    "error": float(lead.std(ddof=1) / len(lead) ** 0.5),
                }
            yield row


def show(name: str, measured: Measured) -> None:
    """The rows as text."""
    typer.echo(f"\n{name}: {measured.cpu_s:.0f} CPU s a seed")
    headings = f"{'slice':9s} {'users':>6s} {'scorer':18s} {'NDCG@10':>8s} {'Recall@10':>9s} {'AUC':>6s}"
    typer.echo(f"{headings}  lead over the best peer ± 2 errors")
    for row in rows_of(measured):
        lead = f"{row['lead']:+.4f} ± {2 * row['error']:.4f} {row['best_peer']}" if "lead" in row else ""
        typer.echo(
            f"{row['slice']:9s} {row['users']:6d} {row['scorer']:18s} {row['ndcg']:8.4f} {row['recall']:9.4f} "
            f"{row['auc']:6.3f}  {lead}"
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks.quality", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="The folder of the data sets.")
    parser.add_argument("--only", default="", help="Part of the name of the data sets to run.")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--peers", action="store_true", help="The peers alone: no training.")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="A setting of [training].")
    parser.add_argument("--work-dir", type=Path, help="Kept: imports and trained models. Default: a temporary one.")
    parser.add_argument("--json", type=Path, help="Also write the rows there.")
    given = parser.parse_args()
    settings = TrainingSettings.model_validate(dict(pair.split("=", 1) for pair in given.set))
    written: dict[str, Any] = {}
    with TemporaryDirectory(prefix="longtail-benchmark-") as scratch:
        for data in BENCHMARKS:
            if given.only not in data.name:
                continue
            if not (given.data / data.folder).exists():
                typer.echo(f"\n{data.name}: skipped, {given.data / data.folder} is not there")
                continue
            measured = measure(
                data, given.data, given.work_dir or Path(scratch), settings, seeds=given.seeds, peers=given.peers
            )
            show(data.name, measured)
            written[data.name] = list(rows_of(measured))
    if given.json:
        given.json.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
