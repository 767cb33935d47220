"""Commands: `longtail evaluate`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.settings import Settings
from cli.training.options import (
    CompressOption,
    ConfigOption,
    ResumeOption,
    cell,
    chosen_settings,
    quiet,
    shown_progress,
)
from cli.training.publish import stable_version, user_weights_file

if TYPE_CHECKING:
    from training.fitting.runs import Run
    from training.reports.version_comparison import Comparison

CANDIDATES = 200  # of each user in --candidates


class SplitOption(StrEnum):
    """How `evaluate` splits the log."""

    TEMPORAL = "temporal"
    LEAVE_ONE_OUT = "leave-one-out"


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.command()(evaluate)


def evaluate(
    context: typer.Context,
    *,
    split: Annotated[SplitOption, typer.Option(help="temporal is the primary one.")] = SplitOption.TEMPORAL,
    topk: Annotated[
        Path | None, typer.Option(help="Also write the recommendations as Parquet: user_id, rank, item_id.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Recommendations per user in --topk.")] = 10,
    candidates: Annotated[
        Path | None,
        typer.Option(help="Instead: write the 200 best items of each user with what came of them, for `policy tune`."),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Instead: two versions (numbers, or SavedModels by path), user by user."),
    ] = None,
    compress: CompressOption = None,
    compressions: Annotated[
        bool,
        typer.Option("--compressions", help="Instead: each --compress there is, by bytes, time and quality."),
    ] = False,
    config: ConfigOption = None,
    resume: ResumeOption = False,
) -> None:
    """Measures the trained model beside its peers and the version in service on events it has not seen.

    Writes report.json and report.html; the release gate of `longtail publish` reads the first.

    The leave-one-out split fits a model of its own, on all but the last two items of each user.

    `--compare A B` asks two exported versions the temporal test instead, and writes comparison.json.
    `--compressions` does so for the kept model in each compression, and writes compressions.json.

    Example: `longtail evaluate --topk top.parquet`
    """
    settings, chosen = chosen_settings(context, config)
    if compare is not None and (topk is not None or split is not SplitOption.TEMPORAL):
        raise typer.BadParameter("--compare asks two versions the temporal test; give it without --topk and --split")
    if compress is not None and (compare is not None or split is not SplitOption.TEMPORAL):
        raise typer.BadParameter("--compress is for the kept model and its temporal test, not --compare or --split")
    if candidates and (compare or topk or compressions or compress is not None or split is not SplitOption.TEMPORAL):
        raise typer.BadParameter("--candidates is given alone: it asks the kept model the temporal test")
    if compressions and (compare or topk or compress is not None or split is not SplitOption.TEMPORAL):
        raise typer.BadParameter("--compressions is given alone: it asks the kept model the temporal test")
    chosen = chosen if compress is None else chosen.model_copy(update={"compression": compress.value})
    quiet()
    from feature_repo.log.catalogue import catalogue_file
    from training import workflow
    from training.fitting import runs
    from training.release import publish as publishing
    from training.reports import reporting

    training, extent = settings.state.training, None  # of the log: all there is
    if split is SplitOption.TEMPORAL and compare is None:
        extent = workflow.kept_log(training)
    elif resume:
        extent = workflow.interrupted_log(training, split.value)
    run = runs.start(
        settings.state.events, settings.features, chosen, catalogue=catalogue_file(settings.state), extent=extent
    )
    if compare is not None:
        _compare(settings, run, compare)
        return
    if candidates is not None:
        _write_candidates(settings, run, candidates)
        return
    if compressions:
        _compare_compressions(settings, run)
        return
    now = workflow.new_version(datetime.now(UTC))
    with shown_progress(chosen, f"{split.value}-{now}") as progress:
        result = reporting.evaluate(
            run,
            training,
            split=split.value,
            k=max(k, 10),
            resume=resume,
            progress=progress,
            published=publishing.in_service(
                settings.state.models, user_weights=user_weights_file(settings), stable=stable_version(settings)
            ),
        )
    _show(result.report)
    if topk is not None:
        frame = result.top[result.top["rank"] <= k]
        topk.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(topk, index=False)
        typer.echo(f"{topk}: {len(frame)} recommendations")
    typer.echo(f"{result.page}")


def _write_candidates(settings: Settings, run: Run, file: Path) -> None:
    from training import artifact, workflow
    from training.reports import examination

    model = artifact.load(settings.state.training / workflow.MODEL_FOLDER)
    frame = examination.candidates(run, model, k=CANDIDATES)
    file.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(file, index=False)
    typer.echo(f"{file}: {len(frame)} candidates of {frame['user_id'].nunique()} users; next: `longtail policy tune`")


def _compare(settings: Settings, run: Run, named: tuple[str, str]) -> None:
    from training.reports.version_comparison import compare, find

    folders = settings.state.models, settings.state.exports
    first, second = (find(name, folders, user_weights=user_weights_file(settings)) for name in named)
    comparison = compare(run, first, second)
    file = settings.state.training / "comparison.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(comparison.as_json(), indent=2) + "\n")
    _show_comparison(comparison)
    typer.echo(f"{file}")


def _compare_compressions(settings: Settings, run: Run) -> None:
    from tempfile import TemporaryDirectory

    from training import artifact
    from training.reports import compression_report

    model = artifact.load(settings.state.training / "model")
    with TemporaryDirectory(prefix="longtail-compressions-") as scratch:
        variants = compression_report.compare(run, model, compression_report.export_all(model, Path(scratch)))
    file = settings.state.training / "compressions.json"
    file.write_text(json.dumps(compression_report.as_json(variants), indent=2) + "\n")
    typer.echo(compression_report.table(variants))
    typer.echo(f"{file}")


def _show(report: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report['split']} split, {report['slices']['all']['users']} users", box=box.SIMPLE)
    table.add_column("", no_wrap=True)
    for heading in ("NDCG@10", "tail users'", "R@10", "AUC", "Accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    tail = report["slices"].get("tail", {}).get("scorers", {})
    for name, values in report["slices"]["all"]["scorers"].items():
        ndcg = cell(values["ndcg"]), cell(tail[name]["ndcg"]) if name in tail else "–"
        means = (cell({"mean": values[metric]["mean"], "error": None}) for metric in ("recall", "auc", "accuracy"))
        table.add_row(name, *ndcg, *means)
    Console().print(table)


def _show_comparison(comparison: Comparison) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"NDCG@10 per user, {comparison.second} less {comparison.first}", box=box.SIMPLE)
    for heading in ("slice", "users", "first", "second", "difference", ""):
        table.add_column(heading, justify="right" if heading not in ("slice", "") else "left", no_wrap=True)
    for one in comparison.differences:
        if one.metric == "ndcg":
            difference = cell({"mean": one.difference, "error": one.error})
            table.add_row(one.slice, str(one.users), f"{one.first:.3f}", f"{one.second:.3f}", difference, one.verdict)
    Console().print(table)
