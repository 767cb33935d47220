"""Measures what stands in for missing user features: each strategy for all features at once, beside `keep`.

    python -m training.benchmarks.missing_values --data DIR [--strategy mean ...] [--work-dir DIR]

NDCG@10 of the network on validation, which strategies are chosen by, and of the whole model on the test: as it is, and
for the same users as if they had no row of features. Differences to `keep` are paired by user, ± two errors. With
--work-dir a strategy that was trained there before is only asked.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import typer

from feature_repo.contract import MODEL_USER_FEATURES
from feature_repo.errors import LongtailError
from feature_repo.layout import StateDir
from feature_repo.missing_values import ALLOWED, KEEP, MEAN, MEDIAN, SIMILAR
from training import artifact, workflow
from training.artifact import TrainedModel
from training.benchmarks.data import BENCHMARKS, BenchmarkData, started
from training.evaluation.asking import ask, make_sheet
from training.evaluation.assessment import MODEL
from training.evaluation.scoring import RetrievalScorer
from training.examples.split import split
from training.fitting.phases import Phases
from training.fitting.progress import Progress
from training.fitting.runs import Run
from training.log.log_reader import LogReader, UserColumns
from training.reports import examination
from training.settings import TrainingSettings

STRATEGIES = (KEEP, MEAN, MEDIAN, SIMILAR, "constant(0)")


@dataclass(frozen=True, kw_only=True)
class RowlessReader(LogReader):
    """Knows the users' states and none of their features."""

    def user_columns(self, user_ids: np.ndarray, as_of_us: np.ndarray) -> UserColumns:
        known = super().user_columns(user_ids, as_of_us)
        return replace(known, features=np.full_like(known.features, np.nan))


def measure(
    data: BenchmarkData, folder: Path, state: StateDir, settings: TrainingSettings, strategy: str
) -> dict[str, np.ndarray]:
    """NDCG@10 [users] by what was asked."""
    chosen = settings.model_copy(update={"missing_values": dict.fromkeys(MODEL_USER_FEATURES, strategy)})
    run = started(data, folder, state, chosen)
    folder = state.training / strategy
    model = _trained(run, folder)
    rowless = replace(run, reader=RowlessReader(**vars(run.reader)))
    found = {"validation": _validation(run, folder)}
    for name, asked in (("test", run), ("test, no rows", rowless)):
        _, assessment = examination.evaluate(asked, model)
        ndcg = assessment.answers[MODEL].per_user["ndcg"]
        found |= {f"{name}: {slice_}": ndcg[assessment.slices[slice_]] for slice_ in ("all", "tail", "dormant")}
    return found


def _trained(run: Run, folder: Path) -> TrainedModel:
    try:
        return artifact.load(folder / workflow.MODEL_FOLDER)
    except LongtailError:
        return workflow.train(run, folder, version=1, resume=False, progress=Progress())


def _validation(run: Run, folder: Path) -> np.ndarray:
    """Of the network that the search chose, as the search asked it."""
    question = split(run.log, "temporal", run.settings).validation
    phases = Phases(run=run, folder=folder / "checkpoints", resume=True, progress=Progress())
    searched = phases.search(question)
    prepared = searched.prepared
    sheet = make_sheet(question, prepared.tables.item_row, prepared.num_rows)
    answer = ask(sheet, RetrievalScorer(model=searched.scorer), np.ones(prepared.num_rows), seed=run.settings.seed)
    return answer.per_user["ndcg"]


def show(strategy: str, found: dict[str, np.ndarray], kept: dict[str, np.ndarray]) -> None:
    """One line for each question."""
    for name, ndcg in found.items():
        lead = ndcg - kept[name]
        error = lead.std(ddof=1) / len(lead) ** 0.5 if len(lead) > 1 else np.nan
        typer.echo(
            f"{strategy:12s} {name:24s} {len(ndcg):6d} users  {ndcg.mean():.4f}  {lead.mean():+.4f} ± {2 * error:.4f}"
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks.missing_values", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="The folder of the data sets.")
    parser.add_argument("--only", default="ml-100k temporal", help="The data set, of temporal split.")
    parser.add_argument("--strategy", action="append", default=[], help=f"Beside keep: {ALLOWED}. Default: each.")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="A setting of [training].")
    parser.add_argument("--work-dir", type=Path, help="Kept: imports and trained models. Default: a temporary one.")
    given = parser.parse_args()
    data = {one.name: one for one in BENCHMARKS if one.split == "temporal"}.get(given.only)
    if data is None or not (given.data / data.folder).exists():
        parser.error(f"there is no temporal data set {given.only!r} in {given.data}")
    settings = TrainingSettings.model_validate(dict(pair.split("=", 1) for pair in given.set))
    with TemporaryDirectory(prefix="longtail-benchmark-") as scratch:
        state = StateDir((given.work_dir or Path(scratch)) / data.folder)
        kept: dict[str, np.ndarray] = {}
        for strategy in dict.fromkeys((KEEP, *(given.strategy or STRATEGIES))):
            found = measure(data, given.data, state, settings, strategy)
            kept = kept or found
            show(strategy, found, kept)


if __name__ == "__main__":
    main()
