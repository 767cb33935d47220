"""Commands: raw events → feature tables."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.features.moments import read_interval, read_moment

if TYPE_CHECKING:
    from cli.settings import Settings


def register(group: typer.Typer) -> None:
    """Adds these commands to `longtail features`."""
    group.command()(build)
    group.command()(backfill)
    group.command("training-set")(training_set)


def build(
    context: typer.Context,
    as_of: Annotated[
        str | None, typer.Option(help="The moment the features hold for, ISO, UTC without a zone. Default: now.")
    ] = None,
    engine: Annotated[str, typer.Option(help="duckdb, on this machine; spark, beyond it.")] = "duckdb",
    incremental: Annotated[
        bool,
        typer.Option("--incremental", help="Read the events of users with news only; the tables are a full build's."),
    ] = False,
) -> None:
    """Compute the feature tables from the event log.

    `--incremental` goes on from the last build. Where it cannot, it builds in full and says why.

    Example: `longtail features build --as-of 2026-03-01`
    """
    if engine not in ("duckdb", "spark"):
        raise typer.BadParameter(f"--engine is {engine!r}; give duckdb or spark")
    if engine == "spark" and incremental:
        raise typer.BadParameter("--incremental is for --engine duckdb; on spark give one of them")
    from cli.data import reporting
    from feature_repo.tables.build import build as build_in_full
    from feature_repo.tables.incremental import build_incremental
    from feature_repo.tables.spark_engine import build_on_spark

    settings: Settings = context.obj
    moment = datetime.now(UTC) if as_of is None else read_moment("--as-of", as_of)
    with reporting() as report:
        build_features = build_on_spark if engine == "spark" else build_incremental if incremental else build_in_full
        summary = build_features(settings.state, settings.features, as_of=moment, report=report)
    if summary.full_because:
        typer.echo(f"built in full: {summary.full_because}")
    if summary.changed_users is not None:
        typer.echo(f"{summary.changed_users} users changed since the last build")
    typer.echo(f"features as of {summary.as_of:%Y-%m-%d %H:%M:%S} UTC")
    for view, rows in summary.rows.items():
        typer.echo(f"  {view}: {rows} rows")
    typer.echo("  users: " + ", ".join(f"{count} {state}" for state, count in summary.states.items()))


def backfill(
    context: typer.Context,
    *,
    first: Annotated[str, typer.Option("--from", help="The first moment, ISO, UTC without a zone.")],
    last: Annotated[str, typer.Option("--to", help="The last moment, likewise.")],
    out: Annotated[Path, typer.Option(help="A folder for VIEW/moment=MOMENT/rows.parquet.")],
    every: Annotated[str, typer.Option(help="How far apart the moments are: 1d, 12h, 30min, 90s.")] = "1d",
    view: Annotated[list[str] | None, typer.Option(help="Of this view only; may be repeated. Default: all.")] = None,
) -> None:
    """Compute the feature tables of every moment of a range, as `features build --as-of` would.

    What is served stays as it is. Run it again after a kill, or with a longer range: moments that are finished are
    kept; those that late events, an erasure or other settings have changed since are computed anew.

    Example: `longtail features backfill --from 2026-01-01 --to 2026-03-01 --out past`
    """
    from cli.data import reporting
    from feature_repo.tables import backfill as past
    from feature_repo.tables.build import BUILT

    settings: Settings = context.obj
    known = {one.name: one for one in BUILT}
    if unknown := [name for name in view or () if name not in known]:
        raise typer.BadParameter(f"--view is {unknown[0]!r}; give any of {', '.join(known)}")
    wanted = tuple(known[name] for name in dict.fromkeys(view or known))
    asked = past.Range(
        first=read_moment("--from", first), last=read_moment("--to", last), every=read_interval("--every", every)
    )
    moments, now = [], datetime.now(UTC)
    with reporting() as report:
        for moment in past.backfill(
            settings.state, settings.features, asked, out, now=now, wanted=wanted, report=report
        ):
            moments.append(moment)
            if moment.rows:
                rows = ", ".join(f"{name} {count}" for name, count in moment.rows.items())
                why = f" ({moment.because})" if moment.because else ""
                typer.echo(f"  {moment.as_of:%Y-%m-%d %H:%M:%S} UTC: {rows}{why}")
    computed, before = sum(bool(one.rows) for one in moments), sum(one.is_before_all for one in moments)
    typer.echo(
        f"{out}: {len(moments)} moments: {computed} computed, {len(moments) - computed - before} kept as they were, "
        f"{before} before the first event"
    )


def training_set(
    context: typer.Context,
    rows: Annotated[
        str,
        typer.Argument(metavar="ROWS", help="Parquet: user_id, item_id or both, event_timestamp, what else you like."),
    ],
    out: Annotated[Path, typer.Option(help="A folder for training_set.parquet and the views' tables.")],
    view: Annotated[
        list[str] | None, typer.Option(help="Of this view only; may be repeated. Default: all but item_neighbors.")
    ] = None,
) -> None:
    """Join to each row every feature as it was at the row's time, from events before it.

    Rows keep their order and columns; features are named VIEW__FEATURE. Of items, and where a user's feature depends
    on all users, the value is that of the midnight (UTC) before, as a nightly build would have left it.

    Example: `longtail features training-set labels.parquet --out set`
    """
    from cli.data import reporting
    from feature_repo.log.pseudonyms import open_pseudonyms
    from feature_repo.tables.training_set import write_training_set

    settings: Settings = context.obj
    with reporting() as report:
        summary = write_training_set(
            settings.state,
            settings.features,
            rows,
            out,
            wanted=view or (),
            pseudonyms=open_pseudonyms(settings.features.pseudonym_key_file),
            report=report,
        )
    typer.echo(f"{summary.file}: {summary.rows} rows with {', '.join(summary.views)}")
