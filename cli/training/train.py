"""Commands: `longtail train`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cli.settings import Settings
from cli.training.options import ConfigOption, ResumeOption, chosen_settings, quiet, shown_progress


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.command()(train)
    app.command()(refit)


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
    from training.examples.split import times_note
    from training.fitting import runs

    training = settings.state.training
    extent = workflow.kept_log(training) if distil else workflow.interrupted_log(training) if resume else None
    run = runs.start(
        settings.state.events, settings.features, chosen, catalogue=catalogue_file(settings.state), extent=extent
    )
    if run.refused is not None:
        typer.echo(f"{chosen.impressions}: {len(run.refused)} items shown and not chosen", err=True)
    if note := times_note(run.log):
        typer.echo(f"note: {note}", err=True)
    if distil:
        run = workflow.student_run(run, training)
    version = workflow.new_version(datetime.now(UTC))
    with shown_progress(run.settings, str(version)) as progress:
        model = workflow.train(run, training, version=version, resume=resume, warm=warm, progress=progress)
    for note in model.fill_values.notes():
        typer.echo(f"note: {note}", err=True)
    best = model.curve[model.best_epoch - 1]["validation_ndcg"]
    of_whom = "" if model.teacher is None else f", a student of {model.teacher['version']}"
    typer.echo(
        f"model {model.version}{of_whom}: {len(model.item_ids)} items, {len(model.user_ids)} users, "
        f"{model.best_epoch} epochs, validation NDCG@10 {best:.4f}; next: `longtail evaluate`, `longtail export`"
    )


def refit(context: typer.Context, *, resume: ResumeOption = False) -> None:
    """Fits the trained model once more, on the whole log: what `longtail export` writes then.

    The last tenth of the log, which was kept for the test, is learnt too, with everything that came in since; settings
    and epochs are those of `longtail train`. This model cannot be measured. It keeps the number of the one that was,
    which goes along for the gate of the next version, so it comes before `longtail publish`. Writes
    `training/refitted`; `longtail train` removes it.

    Example: `longtail train && longtail evaluate && longtail refit && longtail export && longtail publish`
    """
    settings: Settings = context.obj
    quiet()
    from feature_repo.log.catalogue import catalogue_file
    from training import artifact, workflow
    from training.fitting import runs
    from training.release.publish import check_unpublished

    training = settings.state.training
    check_unpublished(artifact.version_of(training / workflow.MODEL_FOLDER), settings.state.models)
    extent = workflow.interrupted_refit_log(training) if resume else None
    run = runs.start(
        settings.state.events,
        settings.features,
        workflow.kept_settings(training),
        catalogue=catalogue_file(settings.state),
        extent=extent,
    )
    with shown_progress(run.settings, "refit") as progress:
        model = workflow.refit(run, training, resume=resume, progress=progress)
    until = datetime.fromtimestamp(model.window_us[1] / 1e6, UTC)
    typer.echo(
        f"model {model.version}: {len(model.item_ids)} items, {len(model.user_ids)} users, learnt until "
        f"{until:%Y-%m-%d %H:%M}; next: `longtail export`"
    )
