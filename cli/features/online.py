"""Commands: feature tables → the online store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.features.moments import age, read_moment
from feature_repo.errors import LongtailError

if TYPE_CHECKING:
    from cli.settings import Settings
    from feature_repo.checks.quality import QualityReport


def register(group: typer.Typer) -> None:
    """Adds these commands to `longtail features`."""
    group.command()(apply)
    group.command()(materialize)
    group.command()(validate)
    group.command()(check)


def apply(context: typer.Context) -> None:
    """Register the feature views with Feast and make the online store.

    Example: `longtail features apply`
    """
    from feature_repo.online.store import apply as apply_views

    settings: Settings = context.obj
    views = apply_views(settings.state, settings.features)
    typer.echo(f"{settings.state.feast / 'feature_store.yaml'}: {', '.join(views)} ({settings.features.online_store})")


def materialize(
    context: typer.Context,
    full: Annotated[
        bool, typer.Option("--full", help="From the first row, also when an earlier run was broken off.")
    ] = False,
    since: Annotated[
        str | None, typer.Option(help="Only rows computed at this time or later, ISO, UTC without a zone.")
    ] = None,
    accept: Annotated[
        str | None, typer.Option(help="Load tables that break a rule too; the reason is kept on record.")
    ] = None,
) -> None:
    """Check the feature tables, load them into the online store, and read the rows back.

    Tables that break a rule (`longtail features validate`) are not loaded, unless `--accept REASON` is given.
    Every user and item, however old. Of a row that feedback has brought up to date since the build, only the columns
    that feedback does not know are written. A run that was broken off is gone on with.

    Example: `longtail features materialize`
    """
    if full and since is not None:
        raise typer.BadParameter("give --full or --since, not both")
    from cli.data import reporting
    from feature_repo.checks import quality
    from feature_repo.online.materialize import materialize as load
    from feature_repo.online.materialize import memory_advice
    from feature_repo.online.store import open_store

    settings: Settings = context.obj
    moment = None if since is None else read_moment("--since", since)
    store = open_store(settings.state, settings.features)
    found = quality.gate(settings.state, settings.features.quality, accept=accept, now=datetime.now(UTC))
    _show_quality(found)
    with reporting() as report:
        done = load(
            settings.state,
            store,
            since=moment,
            full=full,
            limits=settings.features.materialize,
            report=report,
        )
    quality.remember(settings.state, found)
    for view in done:
        notes = f", {view.kept} newer kept" if view.kept else ""
        notes += f", {view.older} older than --since" if view.older else ""
        notes += f"; the first {view.resumed_at} by the run that was broken off" if view.resumed_at else ""
        typer.echo(f"  {view.view}: {view.written} of {view.rows} rows written{notes}")
    if advice := memory_advice(settings.state, store):
        typer.echo(f"note: {advice}", err=True)


def validate(context: typer.Context) -> None:
    """Check the feature tables: types, ranges, lists that go together, rows lost, drift. Exits 1 when a rule is broken.

    Drift is against the tables last loaded online. What was found is also in `features/.build/quality.json`.

    Example: `longtail features validate`
    """
    from feature_repo.checks import quality

    settings: Settings = context.obj
    found = quality.validate(settings.state, settings.features.quality)
    _show_quality(found)
    quality.refuse(found)
    typer.echo(f"{len(found.tables)} tables, {sum(table.rules for table in found.tables)} rules: all hold")


def _show_quality(found: QualityReport) -> None:
    for broken in found.broken:
        typer.echo(f"  {broken}")
    for drift in found.drifted:
        typer.echo(f"  drift: {drift}")


def check(context: typer.Context) -> None:
    """Compare the feature tables with the online store: row counts and freshness. Exits 1 when they differ.

    Example: `longtail features check`
    """
    from feature_repo.online.materialize import check as compare
    from feature_repo.online.store import open_store

    settings: Settings = context.obj
    now = datetime.now(UTC)
    found = compare(settings.state, open_store(settings.state, settings.features))
    for view in found:
        if view.offline_rows is None:
            typer.echo(f"  {view.view}: not built")
            continue
        typer.echo(
            f"  {view.view}: {view.offline_rows} rows offline, newest {age(now, view.newest)} old; of "
            f"{view.counted} read online {view.missing} missing, {view.older} older than offline, "
            f"oldest {age(now, view.oldest_online)} old"
        )
    differing = [view.view for view in found if not view.agrees]
    if differing:
        raise LongtailError(f"offline and online differ in {', '.join(differing)}; run `longtail features materialize`")
    if all(view.offline_rows is None for view in found):
        raise LongtailError(f"nothing is built in {settings.state.features}; run `longtail features build`")
