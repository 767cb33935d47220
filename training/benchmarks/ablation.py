"""Measures what each part of the recommender gives, on public data sets: NDCG@10 with it, less NDCG@10 without it.

    python -m training.benchmarks.ablation --data DIR [--only "ml-100k temporal"] [--without time_gaps ...] [--seeds 3]

The recommender is trained once with the settings as they are (and a seed) and asked validation and test without each
part of the answer; each part of the training that is named by --without takes a training of its own. Differences are
paired by user, ± two errors; * marks those over two errors from 0. With --work-dir what was trained there before is
only asked. Log loss and calibration error are of a target and a uniform item, a half each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import typer

from feature_repo.layout import StateDir
from training.benchmarks.ablation_parts import PARTS, TEST, TRAININGS, VALIDATION, WHOLE, Part, answers_without
from training.benchmarks.data import BENCHMARKS, BenchmarkData, started
from training.benchmarks.quality import SLICES
from training.blend.calibration import probability
from training.evaluation import metrics
from training.evaluation.asking import Answer, Sheet
from training.evaluation.assessment import Assessment
from training.examples.split import split
from training.settings import TrainingSettings

BETTER: Final = {"ndcg": 1.0, "log_loss": -1.0}  # more, or less
NO_ONE: Final = np.zeros(0, bool)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One question, all seeds: per-user values are means over the seeds."""

    slices: Mapping[str, np.ndarray]  # bool [users]
    per_user: Mapping[str, Mapping[str, np.ndarray]]  # part → metric → float64 [users]
    calibration_error: Mapping[str, Mapping[str, float]]  # part → slice


def measure(
    data: BenchmarkData,
    folder: Path,
    state: StateDir,
    settings: TrainingSettings,
    *,
    seeds: int,
    without: Sequence[str],
) -> dict[str, Measured]:
    """Trains with each seed, and asks each question without each part."""
    asked: dict[str, list[Assessment]] = {VALIDATION: [], TEST: []}
    answers: dict[str, dict[str, list[Answer]]] = {VALIDATION: {}, TEST: {}}
    for seed in range(seeds):
        run = started(data, folder, state, settings.model_copy(update={"seed": seed}))
        made, kept = split(run.log, data.split, run.settings), state.training / data.split / str(seed)
        for name in (WHOLE, *without):
            chosen = run.with_settings(run.settings.model_copy(update=TRAININGS.get(name, {})))
            parts = PARTS if name == WHOLE else {name: Part()}
            typer.echo(f"  {data.name}, seed {seed}: {name}")
            for question, assessment in answers_without(chosen, made, kept / name, parts).items():
                asked[question].append(assessment)
                for part, answer in assessment.answers.items():
                    answers[question].setdefault(part, []).append(answer)
    return {question: means(asked[question][0], answers[question]) for question in asked}


def means(asked: Assessment, answers: Mapping[str, Sequence[Answer]]) -> Measured:
    """Over the seeds; the users, their slices and targets are those of one of the assessments."""
    sheet, slices = asked.sheet, {name: asked.slices[name] for name in SLICES if asked.slices.get(name, NO_ONE).any()}
    return Measured(
        slices=slices,
        per_user={
            part: {
                "ndcg": np.mean([one.per_user["ndcg"] for one in seeds], axis=0),
                "log_loss": np.mean([log_loss(one, sheet) for one in seeds], axis=0),
            }
            for part, seeds in answers.items()
        },
        calibration_error={
            part: {
                name: float(np.mean([_calibration_error(one, users[sheet.target_row]) for one in seeds]))
                for name, users in slices.items()
            }
            for part, seeds in answers.items()
        },
    )


def log_loss(answer: Answer, sheet: Sheet) -> np.ndarray:
    """−log of the probability of what is true, per user over targets and their negatives: float64 [users]."""
    loss = 0.5 * (np.logaddexp(0.0, -answer.target_score) + np.logaddexp(0.0, answer.negative_score))
    count = np.bincount(sheet.target_row, minlength=sheet.num_users)
    total = np.bincount(sheet.target_row, weights=loss, minlength=sheet.num_users)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _calibration_error(answer: Answer, chosen: np.ndarray) -> float:
    score = np.concatenate([answer.target_score[chosen], answer.negative_score[chosen]])
    label = np.repeat([1.0, 0.0], int(chosen.sum()))
    return metrics.calibration_error(probability(score, 1.0, 0.0), label)


def rows_of(measured: Measured) -> Iterator[dict[str, Any]]:
    """One row per part, metric and slice: the mean without the part, and by how much the whole is better."""
    for part, values in measured.per_user.items():
        for metric, sign in BETTER.items():
            for name, users in measured.slices.items():
                whole, found = measured.per_user[WHOLE][metric][users], values[metric][users]
                gives, error = metrics.mean_and_error(sign * (whole - found))
                row = {"part": part, "metric": metric, "slice": name, "users": int(users.sum())}
                row |= {"mean": float(np.nanmean(found)), "gives": gives, "error": error}
                yield row | {"calibration_error": measured.calibration_error[part][name]}


def show(name: str, question: str, measured: Measured) -> None:
    """A line for each part, a column for each slice."""
    rows = list(rows_of(measured))
    for metric in BETTER:
        counts = "".join(f"{f'{slice_} ({users.sum()})':>20s}" for slice_, users in measured.slices.items())
        typer.echo(f"\n{name}, {question}, {metric}: what the part gives\n{'':22s}{counts}")
        for part in measured.per_user:
            cells = [row for row in rows if (row["part"], row["metric"]) == (part, metric)]
            told = [f"{row['mean']:.4f}" if part == WHOLE else _difference(row) for row in cells]
            typer.echo(f"{part:22s}" + "".join(f"{cell:>20s}" for cell in told))
    typer.echo(f"\n{name}, {question}: calibration error without the part")
    for part, errors in measured.calibration_error.items():
        typer.echo(f"{part:22s}" + "".join(f"{error:20.4f}" for error in errors.values()))


def _difference(row: Mapping[str, Any]) -> str:
    mark = "*" if abs(row["gives"]) > 2 * row["error"] else " "
    return f"{row['gives']:+.4f} ± {2 * row['error']:.4f}{mark}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks.ablation", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="The folder of the data sets.")
    parser.add_argument("--only", default="ml-100k temporal", help="Part of the name of the data sets to run.")
    parser.add_argument("--without", action="append", default=[], choices=list(TRAININGS), help="Needs a training.")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="A setting of [training].")
    parser.add_argument("--work-dir", type=Path, help="Kept: imports and trained models. Default: a temporary one.")
    parser.add_argument("--json", type=Path, help="Also write the rows there.")
    given = parser.parse_args()
    settings = TrainingSettings.model_validate(dict(pair.split("=", 1) for pair in given.set))
    written: dict[str, Any] = {}
    with TemporaryDirectory(prefix="longtail-ablation-") as scratch:
        for data in BENCHMARKS:
            if given.only not in data.name:
                continue
            if not (given.data / data.folder).exists():
                typer.echo(f"{data.name}: skipped, {given.data / data.folder} is not there")
                continue
            state = StateDir((given.work_dir or Path(scratch)) / data.folder)
            found = measure(data, given.data, state, settings, seeds=given.seeds, without=given.without)
            for question, measured in found.items():
                show(data.name, question, measured)
            written[data.name] = {question: list(rows_of(measured)) for question, measured in found.items()}
    if given.json:
        given.json.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
