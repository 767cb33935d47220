"""Commands: training."""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.settings import Settings

if TYPE_CHECKING:
    from training.fitting.progress import Progress
    from training.fitting.runs import Run
    from training.release.gate import Verdict
    from training.release.model_config import ModelConfig
    from training.reports.version_comparison import Comparison
    from training.settings import TrainingSettings


CANDIDATES = 200  # of each user in --candidates


class SplitOption(StrEnum):
    """How `evaluate` splits the log."""

    TEMPORAL = "temporal"
    LEAVE_ONE_OUT = "leave-one-out"


class CompressionOption(StrEnum):
    """How an export keeps its large tables."""

    NONE = "none"
    FLOAT16 = "float16"
    INT8 = "int8"
    PQ = "pq"


CompressOption = Annotated[
    CompressionOption | None,
    typer.Option("--compress", help="How the large tables are kept. Default: training.compression."),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="A TOML file of [training] settings; it wins over longtail.toml.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of an interrupted run.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.command()(train)
    app.command()(evaluate)
    app.command()(export)
    app.command()(publish)


def train(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    resume: ResumeOption = False,
    impressions: Annotated[
        Path | None,
        typer.Option(help="What `longtail impressions` wrote, to learn from too. Default: training.impressions."),
    ] = None,
    warm: Annotated[
        bool, typer.Option("--warm", help="Start from the last training's weights, for training.warm_epochs at most.")
    ] = False,
    distil: Annotated[
        bool,
        typer.Option("--distil", help="Train a small student of the model that `longtail train` left just before."),
    ] = False,
) -> None:
    """Learns the recommender from the event log.

    The last tenth of the log is kept for the test and not looked at. Writes `training/model` and checkpoints.

    With `--distil` the model becomes a student, of the sizes training.student_*: it learns from the scores of the model
    that was trained before, with the same settings and on the same log. `longtail train --resume` brings that one back.

    Example: `longtail train --config small.toml`
    """
    if warm and distil:
        raise typer.BadParameter("--distil trains a student from scratch; give it without --warm")
    settings, chosen = chosen_settings(context, config)
    chosen = chosen if impressions is None else chosen.model_copy(update={"impressions": impressions})
    quiet()
    from feature_repo.log.catalogue import catalogue_file
    from training import workflow
    from training.fitting import runs

    run = runs.start(settings.state.events, settings.features, chosen, catalogue=catalogue_file(settings.state))
    if run.refused is not None:
        typer.echo(f"{chosen.impressions}: {len(run.refused)} items shown and not chosen", err=True)
    if distil:
        run = workflow.student_run(run, settings.state.training)
    version = workflow.new_version(datetime.now(UTC))
    with shown_progress(run.settings, str(version)) as progress:
        model = workflow.train(
            run, settings.state.training, version=version, resume=resume, warm=warm, progress=progress
        )
    for note in model.fill_values.notes():
        typer.echo(f"note: {note}", err=True)
    best = model.curve[model.best_epoch - 1]["validation_ndcg"]
    of_whom = "" if model.teacher is None else f", a student of {model.teacher['version']}"
    typer.echo(
        f"model {model.version}{of_whom}: {len(model.item_ids)} items, {len(model.user_ids)} users, "
        f"{model.best_epoch} epochs, validation NDCG@10 {best:.4f}; next: `longtail evaluate`, `longtail export`"
    )


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

    run = runs.start(settings.state.events, settings.features, chosen, catalogue=catalogue_file(settings.state))
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
            settings.state.training,
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


def export(context: typer.Context, *, compress: CompressOption = None) -> None:
    """Writes the trained model as a SavedModel that TensorFlow Serving loads, and checks that it scores the same.

    Compressed, its large tables are kept small and decoded in the graph; signatures and contract stay the same.

    Example: `longtail export --compress int8`
    """
    settings: Settings = context.obj
    compression = settings.training.compression if compress is None else compress.value
    quiet()
    from training import artifact
    from training.export.saved_model import export as export_model
    from training.reports import reporting

    model = artifact.load(settings.state.training / "model")
    directory = export_model(
        model,
        settings.state.exports,
        retrieve_k=settings.training.retrieve_k,
        candidate_buckets=settings.training.candidate_buckets,
        metrics=reporting.metrics_of(settings.state.training, model.version, compression),
        compression=compression,
    )
    size_mb = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) / 1e6
    typer.echo(
        f"{directory}: {size_mb:,.1f} MB, compression {compression}; reloaded, and it scores as the trained model "
        "does; next: `longtail publish`"
    )


def publish(
    context: typer.Context,
    *,
    override: Annotated[
        str | None, typer.Option(help="Release a model that the gate refuses, for this reason; it is kept on record.")
    ] = None,
) -> None:
    """Releases the latest export: renames it into the folder that the model server watches, if the gate lets it.

    The gate compares it with the version in service, segment by segment, as `longtail evaluate` measured both.
    Writes `release.json` and `model_card.md` beside the model, and the users' own weights.

    Example: `longtail publish && longtail features materialize`
    """
    settings: Settings = context.obj
    quiet()
    from training.release import dossier, gate
    from training.release import publish as publishing
    from training.reports import reporting

    exported = publishing.latest_export(settings.state.exports)
    version = publishing.check_export(exported)
    report = reporting.last_report(settings.state.training, version)
    stable = stable_version(settings)
    published = publishing.in_service(settings.state.models, user_weights=user_weights_file(settings), stable=stable)
    incumbent = None if published is None else published.version
    verdict = gate.judge(
        report,
        candidate=version,
        incumbent=incumbent,
        errors=settings.training.gate_errors,
        compression=publishing.compression_of(exported),
    )
    _show_verdict(verdict)
    papers = dossier.papers(exported, report, verdict, override=override, now=datetime.now(UTC))
    directory = publishing.publish(exported, settings.state.models, papers=papers)
    typer.echo(f"{directory}: published")
    if stable is not None:
        typer.echo(f"the server loads labelled versions only; next: `longtail label canary {version}`")
        return
    write_user_weights(settings, version)


def write_user_weights(settings: Settings, version: int) -> None:
    """Of the trained model, when it is this version; the view keeps those of one version."""
    from training import artifact
    from training.release import publish as publishing

    model = artifact.load_user_weights(settings.state.training / "model")
    if model.version != version:
        typer.echo(f"note: the trained model is {model.version}; {version} answers without new user weights", err=True)
        return
    path = user_weights_file(settings)
    publishing.write_user_weights(
        path, user_ids=model.user_ids, weights=model.weights, version=version, now=datetime.now(UTC)
    )
    typer.echo(f"{path}: {len(model.user_ids)} users; next: `longtail features materialize`")


def model_config(settings: Settings) -> ModelConfig | None:
    """The model server's file of versions and labels, where one is set."""
    from training.release.model_config import ModelConfig

    path = settings.training.model_config_file
    if path is None:
        return None
    return ModelConfig(path=path, model=settings.gateway.model_name, base_path=settings.state.models)


def stable_version(settings: Settings) -> int | None:
    """The version labelled stable; None where labels are not used."""
    from training.release.model_config import STABLE

    config = model_config(settings)
    return None if config is None else config.labels().get(STABLE)


def user_weights_file(settings: Settings) -> Path:
    from feature_repo.contract import USER_WEIGHTS
    from feature_repo.tables.build import offline_file

    return offline_file(settings.state, USER_WEIGHTS)


def chosen_settings(context: typer.Context, config: Path | None) -> tuple[Settings, TrainingSettings]:
    """All settings, and those of training with the file put over them."""
    from training.fitting.config_file import with_file

    settings: Settings = context.obj
    return settings, settings.training if config is None else with_file(settings.training, config)


def quiet() -> None:
    """Imports TensorFlow without its start-up lines: they go to descriptor 2 whatever its log settings say.

    Nor do its advices of deprecation interest who trains: a session is how the real server loads a model.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        importlib.import_module("keras")
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def shown_progress(settings: TrainingSettings, run: str) -> Iterator[Progress]:
    """A context in which a run shows what it does, here and to the trackers that the settings name."""
    from cli.training_progress import shown
    from training.fitting.tracking import tracked, trackers_of

    def on_trouble(what: str) -> None:
        typer.echo(f"note: {what}; training goes on", err=True)

    with shown() as progress, tracked(trackers_of(settings, run), progress, on_trouble=on_trouble) as told:
        yield told


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
        ndcg = _cell(values["ndcg"]), _cell(tail[name]["ndcg"]) if name in tail else "–"
        means = (_cell({"mean": values[metric]["mean"], "error": None}) for metric in ("recall", "auc", "accuracy"))
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
            difference = _cell({"mean": one.difference, "error": one.error})
            table.add_row(one.slice, str(one.users), f"{one.first:.3f}", f"{one.second:.3f}", difference, one.verdict)
    Console().print(table)


def _show_verdict(verdict: Verdict) -> None:
    from rich.console import Console
    from rich.table import Table

    if verdict.incumbent is None:
        typer.echo("nothing is in service yet: the gate has nothing to compare with")
        return
    table = Table(title=f"NDCG@10 per user, {verdict.candidate} less {verdict.incumbent}, which is in service")
    for heading in ("segment", "users", str(verdict.candidate), str(verdict.incumbent), "difference", ""):
        table.add_column(heading, justify="right" if heading not in ("segment", "") else "left")
    for one in verdict.segments:
        difference = _cell({"mean": one.difference, "error": one.error})
        told = "regresses" if one in verdict.regressions else ""
        table.add_row(one.name, str(one.users), f"{one.candidate:.3f}", f"{one.incumbent:.3f}", difference, told)
    Console().print(table)


def _cell(value: dict[str, float | None]) -> str:
    mean, error = value["mean"], value["error"]
    return "–" if mean is None else f"{mean:.3f}" + ("" if error is None else f" ±{error:.3f}")
