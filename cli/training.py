"""Commands: training."""

from __future__ import annotations

import importlib
import os
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.settings import Settings

if TYPE_CHECKING:
    from training.settings import TrainingSettings


class SplitOption(StrEnum):
    """How `evaluate` splits the log."""

    TEMPORAL = "temporal"
    LEAVE_ONE_OUT = "leave-one-out"


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


def train(context: typer.Context, config: ConfigOption = None, resume: ResumeOption = False) -> None:
    """Learns the recommender from the event log.

    The last tenth of the log is kept for the test and not looked at. Writes `training/model` and checkpoints.

    Example: `longtail train --config small.toml`
    """
    settings, chosen = _settings(context, config)
    _quiet()
    from feature_repo.catalogue import catalogue_file
    from training import workflow

    run = workflow.start(settings.state.events, settings.features, chosen, catalogue=catalogue_file(settings.state))
    with _shown_progress() as progress:
        model = workflow.train(
            run,
            settings.state.training,
            version=workflow.new_version(datetime.now(UTC)),
            resume=resume,
            progress=progress,
        )
    best = model.curve[model.best_epoch - 1]["validation_ndcg"]
    typer.echo(
        f"model {model.version}: {len(model.item_ids)} items, {len(model.user_ids)} users, {model.best_epoch} epochs, "
        f"validation NDCG@10 {best:.4f}; next: `longtail evaluate`, `longtail export`"
    )


def evaluate(
    context: typer.Context,
    *,
    split: Annotated[SplitOption, typer.Option(help="temporal is the primary one.")] = SplitOption.TEMPORAL,
    topk: Annotated[
        Path | None, typer.Option(help="Also write the recommendations as Parquet: user_id, rank, item_id.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Recommendations per user in --topk.")] = 10,
    config: ConfigOption = None,
    resume: ResumeOption = False,
) -> None:
    """Measures the trained model beside popularity on events it has not seen; writes report.json and report.html.

    The leave-one-out split fits a model of its own, on all but the last two items of each user.

    Example: `longtail evaluate --topk top.parquet`
    """
    settings, chosen = _settings(context, config)
    _quiet()
    from feature_repo.catalogue import catalogue_file
    from training import reporting, workflow

    run = workflow.start(settings.state.events, settings.features, chosen, catalogue=catalogue_file(settings.state))
    with _shown_progress() as progress:
        result = reporting.evaluate(
            run, settings.state.training, split=split.value, k=max(k, 10), resume=resume, progress=progress
        )
    _show(result.report)
    if topk is not None:
        frame = result.top[result.top["rank"] <= k]
        topk.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(topk, index=False)
        typer.echo(f"{topk}: {len(frame)} recommendations")
    typer.echo(f"{result.page}")


def export(context: typer.Context) -> None:
    """Writes the trained model as a SavedModel that TensorFlow Serving loads, and checks that it scores the same.

    Example: `longtail export`
    """
    settings: Settings = context.obj
    _quiet()
    from training import artifact, reporting
    from training.export import export as export_model

    model = artifact.load(settings.state.training / "model")
    directory = export_model(
        model,
        settings.state.exports,
        retrieve_k=settings.training.retrieve_k,
        candidate_buckets=settings.training.candidate_buckets,
        metrics=reporting.metrics_of(settings.state.training, model.version),
    )
    typer.echo(f"{directory}: reloaded, and it scores as the trained model does; next: `longtail publish`")


def publish(context: typer.Context) -> None:
    """Renames the latest export into the folder that the model server watches, and writes the users' own weights.

    Example: `longtail publish && longtail features materialize`
    """
    settings: Settings = context.obj
    _quiet()
    from training import artifact
    from training import publish as publishing

    exported = publishing.latest_export(settings.state.exports)
    version = publishing.check_export(exported)
    model = artifact.load_user_weights(settings.state.training / "model")
    if model.version != version:
        typer.echo(
            f"note: the trained model is {model.version}; publishing {version} without new user weights", err=True
        )
    directory = publishing.publish(exported, settings.state.models)
    typer.echo(f"{directory}: published")
    if model.version == version:
        path = settings.state.features / "user_weights.parquet"
        publishing.write_user_weights(
            path, user_ids=model.user_ids, weights=model.weights, version=version, now=datetime.now(UTC)
        )
        typer.echo(f"{path}: {len(model.user_ids)} users; next: `longtail features materialize`")


def _settings(context: typer.Context, config: Path | None) -> tuple[Settings, TrainingSettings]:
    from training.config_file import with_file

    settings: Settings = context.obj
    return settings, settings.training if config is None else with_file(settings.training, config)


def _quiet() -> None:
    """Imports TensorFlow without its start-up lines: they go to descriptor 2 whatever its log settings say."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        importlib.import_module("keras")
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _shown_progress() -> Any:
    from cli.training_progress import shown

    return shown()


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report['split']} split, {report['slices']['all']['users']} users")
    columns = {"ndcg": "NDCG@10", "recall": "Recall@10", "hit_rate": "Hit rate", "auc": "AUC", "accuracy": "Accuracy"}
    for heading in ("", *columns.values(), "NDCG@10 tail"):
        table.add_column(heading, justify="left" if not heading else "right")
    tail = report["slices"].get("tail", {}).get("scorers", {})
    for name, values in report["slices"]["all"]["scorers"].items():
        cells = [_cell(values[metric]) for metric in columns]
        table.add_row(name, *cells, _cell(tail[name]["ndcg"]) if name in tail else "–")
    Console().print(table)


def _cell(value: dict[str, float | None]) -> str:
    mean, error = value["mean"], value["error"]
    return "–" if mean is None else f"{mean:.4f}" + ("" if error is None else f" ±{error:.4f}")
