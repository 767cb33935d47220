"""Command `simulate`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cli.settings import Settings


def register(app: typer.Typer) -> None:
    """Adds this command to `longtail`."""
    app.command()(simulate)


def simulate(
    context: typer.Context,
    *,
    seeds: Annotated[int, typer.Option(min=0, max=1000, help="Worlds in which a contact has an effect.")] = 20,
    null_seeds: Annotated[int, typer.Option(min=0, max=1000, help="Worlds in which it has none.")] = 20,
    users: Annotated[int, typer.Option(min=200, max=100_000, help="Users of a world.")] = 1200,
    rounds: Annotated[int, typer.Option(min=1, max=12, help="Weekly campaigns.")] = 4,
    contacts: Annotated[int, typer.Option(min=10, help="Users chosen in a round, those held out included.")] = 200,
    holdout: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of the chosen that is held out.")] = 0.25,
    out: Annotated[
        Path | None, typer.Option(help="A folder for model and trials. Default: simulation/ of the state directory.")
    ] = None,
) -> None:
    """Try the real gateway in made-up worlds whose truth is known, beside relevance-only and popularity.

    Takes about two minutes a seed.
    Trials are kept: a run that was broken off goes on. Exits 1 when a promise does not hold.

    Example: `longtail simulate --seeds 2 --null-seeds 1`
    """
    from simulator import study, verdict
    from simulator.trial import TrialSettings
    from simulator.world import WorldSettings

    if not seeds + null_seeds:
        raise typer.BadParameter("give --seeds or --null-seeds over 0")
    settings: Settings = context.obj
    directory = out or settings.state_dir / "simulation"
    directory.mkdir(parents=True, exist_ok=True)
    made = TrialSettings(world=WorldSettings(users=users), rounds=rounds, contacts=contacts, holdout=holdout)
    plan = study.Plan(trial=made, seeds=seeds, null_seeds=null_seeds)
    effective, null = study.run(
        plan, now=datetime.now(UTC), directory=directory, say=lambda line: typer.echo(line, err=True)
    )
    report = verdict.summarize(effective, null)
    file = directory / "simulation.json"
    file.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    _show(report)
    typer.echo(f"{file}")
    if not all(report["checks"].values()):
        raise typer.Exit(1)


def _show(report: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report['seeds']} worlds with an effect, {report['null_seeds']} without", box=box.SIMPLE)
    table.add_column("", no_wrap=True)
    for heading in ("contacts", "returns added", "per contact", "opt-outs", "rules broken"):
        table.add_column(heading, justify="right")
    for name, way in report["ways"].items():
        per_contact = "–" if way["per_contact"] is None else f"{way['per_contact']:.4f}"
        added = f"{way['incremental_returns']:.0f}"
        table.add_row(
            name, f"{way['contacts']}", added, per_contact, f"{way['opt_outs']}", f"{len(way['broken_rules'])}"
        )
    Console().print(table)
    if "ratio" in report:
        ratio, harm = report["ratio"], report["active_users"]
        typer.echo(f"longtail over the better rival: {ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})")
        typer.echo(f"events of active users: {harm['change']:+.2%} ({harm['low']:+.2%} to {harm['high']:+.2%})")
    for name, found in (("with", report["intervals"]), ("without", report["null_intervals"])):
        if found["campaigns"]:
            rightly = "" if not found["told"] else (f", and covers the truth in {found['coverage']:.1%} of these")
            typer.echo(
                f"{found['campaigns']} campaigns {name} an effect: an interval is told of {found['told']}{rightly}; "
                f"an effect is claimed in {found['claims']:.1%}"
            )
    typer.echo(f"{report['decisions']} decisions")
    for name, holds in report["checks"].items():
        typer.echo(f"  {'holds' if holds else 'DOES NOT HOLD'}: {name}")
