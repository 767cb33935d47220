"""Commands: `longtail report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cli.settings import Settings

group = typer.Typer(help="What came of it: pages and numbers.", no_args_is_help=True, rich_markup_mode="markdown")

OutOption = Annotated[Path | None, typer.Option("--out", help="The folder. Default: reports/ of the state directory.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.add_typer(group, name="report")


@group.callback()
def reports() -> None:
    """What came of it: pages and numbers."""


@group.command()
def lifecycle(
    context: typer.Context,
    period_days: Annotated[int, typer.Option(min=1, max=366, help="Length of a period of growth accounting.")] = 7,
    out: OutOption = None,
) -> None:
    """Users by lifecycle state over time, moves between states, growth accounting, days in state.

    Example: `longtail report lifecycle --period-days 28`
    """
    from outcomes.lifecycle_report import report_of, write
    from outcomes.user_days import read_user_days

    settings: Settings = context.obj
    report = report_of(read_user_days(settings.state.events), settings.features.lifecycle, period_days=period_days)
    data, page = write(report, out or settings.state.reports)
    shares = ", ".join(f"{share:.1%} {state}" for state, share in report["shares"].items())
    typer.echo(f"{report['users']} users on {report['last_day']}: {shares}")
    typer.echo(f"{data}\n{page}")


@group.command()
def activation(
    context: typer.Context,
    window_days: Annotated[int, typer.Option(min=1, max=366, help="A return is a visit within so many days.")] = 14,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Of the intervals.")] = 0.95,
    out: OutOption = None,
) -> None:
    """Who came back because of longtail: users answered against users held out, arms of experiments against each other.

    Example: `longtail report activation --window-days 7`
    """
    from feature_repo.decisions.records import POLICIES
    from outcomes.activation_report import VERDICTS, is_empty, report_of, write
    from outcomes.arms import read_weights
    from outcomes.decisions import read
    from outcomes.event_frame import read_events
    from outcomes.returning import Visits
    from outcomes.user_days import read_user_days

    settings: Settings = context.obj
    report = report_of(
        read(settings.state.decisions),
        read_events(settings.state.events),
        Visits(read_user_days(settings.state.events)),
        weights=read_weights(settings.state.decisions / POLICIES),
        window_days=window_days,
        confidence=confidence,
    )
    data, page = write(report, out or settings.state.reports)
    for name, found in report["groups"].items():
        effect = found["all"]["effect"]
        told = (
            ""
            if effect["value"] is None
            else f" ({effect['value']:+.2%}, {effect['low']:+.2%} to {effect['high']:+.2%})"
        )
        typer.echo(f"{name}: {found['users']} users, {VERDICTS[found['all']['verdict']]}{told}")
    if is_empty(report):
        typer.echo(f"note: the log ends less than {window_days} days after every decision: nobody's time is up yet")
    typer.echo(f"{data}\n{page}")
