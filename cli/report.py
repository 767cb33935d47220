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
