"""Commands: the trained model into service."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.settings import Settings
from cli.training.options import CompressOption, cell, quiet

if TYPE_CHECKING:
    from training.release.gate import Verdict
    from training.release.model_config import ModelConfig


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.command()(export)
    app.command()(publish)


def export(context: typer.Context, *, compress: CompressOption = None) -> None:
    """Writes the trained model as a SavedModel that TensorFlow Serving loads, and checks that it scores the same.

    Compressed, its large tables are kept small and decoded in the graph; signatures and contract stay the same.

    Example: `longtail export --compress int8`
    """
    settings: Settings = context.obj
    compression = settings.training.compression if compress is None else compress.value
    quiet()
    from training import artifact, workflow
    from training.export.saved_model import export as export_model
    from training.reports import reporting

    training = settings.state.training
    model = artifact.load(workflow.to_serve(training))
    directory = export_model(
        model,
        settings.state.exports,
        retrieve_k=settings.training.retrieve_k,
        candidate_buckets=settings.training.candidate_buckets,
        metrics=reporting.metrics_of(training, model.version, compression),
        compression=compression,
        measured=artifact.load(training / workflow.MODEL_FOLDER) if workflow.is_refitted(training) else None,
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
    from training import workflow
    from training.export.serving_contract import measured_path
    from training.release import dossier, gate
    from training.release import publish as publishing
    from training.reports import reporting

    exported = publishing.latest_export(settings.state.exports)
    version = publishing.check_export(exported)
    workflow.check_exported(settings.state.training, version, is_refitted_export=measured_path(exported).exists())
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
    from training import artifact, workflow
    from training.release import publish as publishing
    from training.release.incumbent import measured_weights

    training, now = settings.state.training, datetime.now(UTC)
    model = artifact.load_user_weights(workflow.to_serve(training))
    if model.version != version:
        typer.echo(f"note: the trained model is {model.version}; {version} answers without new user weights", err=True)
        return
    path = user_weights_file(settings)
    publishing.write_user_weights(path, model, now=now)
    if workflow.is_refitted(training):
        measured = artifact.load_user_weights(training / workflow.MODEL_FOLDER)
        publishing.write_user_weights(measured_weights(path), measured, now=now)
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
        difference = cell({"mean": one.difference, "error": one.error})
        told = "regresses" if one in verdict.regressions else ""
        table.add_row(one.name, str(one.users), f"{one.candidate:.3f}", f"{one.incumbent:.3f}", difference, told)
    Console().print(table)
