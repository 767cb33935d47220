"""Commands: the search for better settings of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.training.options import ConfigOption, chosen_settings, quiet, shown_progress

if TYPE_CHECKING:
    from training.fitting.progress import Progress
    from training.fitting.tuning import Found, Trial


class PrunerOption(StrEnum):
    """Which trials are given up before their last epoch."""

    MEDIAN = "median"
    HYPERBAND = "hyperband"
    NONE = "none"


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.command()(tune)


def tune(
    context: typer.Context,
    *,
    trials: Annotated[
        int, typer.Option(min=1, help="Configurations to try, those of an interrupted search included.")
    ] = 30,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds after which no other is begun.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is tried; the models' own seed stays.")] = 0,
    pruner: Annotated[
        PrunerOption, typer.Option(help="Gives up what is behind at the same epoch: by the median, or in rounds.")
    ] = PrunerOption.MEDIAN,
    space: Annotated[
        Path | None, typer.Option(help="A TOML file of what to vary, such as `dropout = { low = 0, high = 0.5 }`.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the best settings go. Default: tuned.toml in the state's training folder."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Searches better settings of training on the validation part of the log; the test is not looked at.

    The settings as they are come first, so that what is found is not worse on validation. The same command goes on
    after an interruption, and with more --trials. Needs the extra `tune`.

    Example: `longtail tune --trials 30 --timeout 3600 && longtail train --config var/training/tuned.toml`
    """
    settings, chosen = chosen_settings(context, config)
    quiet()
    from feature_repo.log.catalogue import catalogue_file
    from training import workflow
    from training.fitting import config_file, runs, tuning
    from training.fitting.tuning_space import default_space, read_space

    run = runs.start(settings.state.events, settings.features, chosen, catalogue=catalogue_file(settings.state))
    folder, file = settings.state.training / "tuning", out or settings.state.training / "tuned.toml"
    search = tuning.Search(
        settings=chosen,
        space=default_space(chosen) if space is None else read_space(space, chosen),
        folder=folder,
        log=run.log_fingerprint(),
        seed=seed,
        pruner=pruner.value,
    )

    now = workflow.new_version(datetime.now(UTC))

    @contextmanager
    def shown(number: int, varied: Mapping[str, Any]) -> Iterator[Progress]:
        typer.echo(f"trial {number}: {_told(varied)}")
        with shown_progress(chosen.model_copy(update=dict(varied)), f"tune-{now}-{number}") as progress:
            yield progress

    def on_trial(trial: Trial, found: Found | None) -> None:
        _show_trial(trial, found)
        if found is not None:
            head = f"the best of {found.settings.configurations_tried} configurations, validation NDCG@10 "
            config_file.write(found.settings, file, head=f"{head}{found.best.score:.4f}", first=search.space)

    found = tuning.tune(
        search,
        lambda tried, progress: workflow.validation_score(run.with_settings(tried), folder, progress=progress),
        trials=trials,
        timeout_s=timeout,
        shown=shown,
        on_trial=on_trial,
    )
    _show_best(found)
    typer.echo(f"{file}: trial {found.best.number}; next: `longtail train --config {file}`")


def _told(varied: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_cell(value)}" for name, value in varied.items())


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _show_trial(trial: Trial, found: Found | None) -> None:
    score = "no epoch" if trial.score is None else f"validation NDCG@10 {trial.score:.4f}"
    best = "" if found is None else f"; best {found.best.score:.4f}, trial {found.best.number}"
    typer.echo(f"trial {trial.number} {trial.outcome}: {score} in {trial.epochs} epochs{best}")


def _show_best(found: Found) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    finished = [trial for trial in found.trials if trial.outcome == "finished"]
    shown = sorted(finished, key=lambda one: -(one.score or 0.0))[:4]
    table = Table("", *(f"trial {trial.number}" for trial in shown), box=box.SIMPLE, title="the best trials")
    table.add_row("validation NDCG@10", *(f"{trial.score:.4f}" for trial in shown))
    for name in found.best.varied:
        table.add_row(name, *(_cell(trial.varied[name]) for trial in shown))
    Console().print(table)
