"""Commands: `longtail policy`, to look at a policy before it decides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cli.settings import Settings
    from serving.gateway.policy_document import Policy

group = typer.Typer(help="Look at a policy before it decides.", no_args_is_help=True, rich_markup_mode="markdown")
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
SHIPPED = "shipped"
PolicyArgument = Annotated[str, typer.Argument(help="A policy.toml, or `shipped` for the one in the package.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.add_typer(group, name="policy")


@group.callback()
def policies() -> None:
    """Look at a policy before it decides."""


@group.command()
def validate(file: PolicyArgument) -> None:
    """Check a policy: unknown keys, ranges, contradictory caps, each arm of each experiment; 1 when it is wrong.

    Example: `longtail policy validate policy.toml`
    """
    policy = _read(file)
    arms = sum(len(one.arms) for layer in policy.layers for one in layer.experiments)
    typer.echo(f"{file}: fine, {policy.version}, {len(policy.channels)} channels, {arms} experiment arms")


@group.command()
def diff(before: PolicyArgument, after: PolicyArgument, as_json: JsonOption = False) -> None:
    """Show every key that two policies do not say alike, defaults included. Exits with 0 whether or not there are any.

    Example: `longtail policy diff shipped draft.toml`
    """
    from serving.gateway.policy_diff import changes

    found = changes(_read(before), _read(after))
    if as_json:
        typer.echo(json.dumps([vars(one) for one in found], indent=2))
        return
    for one in found:
        typer.echo(f"{one.key}: {_shown(one.before)} → {_shown(one.after)}")
    if not found:
        typer.echo("they say the same")


@group.command()
def simulate(
    context: typer.Context,
    before: PolicyArgument,
    after: PolicyArgument,
    *,
    decisions: Annotated[Path | None, typer.Option(help="A decision log. Default: decisions/ of the state.")] = None,
    last: Annotated[int, typer.Option(min=1, help="Only so many of the newest decisions.")] = 10_000,
    as_json: JsonOption = False,
) -> None:
    """Arrange logged decisions by two policies, and show by state how the lists differ.

    The candidates are those of the log: what users would have done is a question for `longtail ope`.

    Example: `longtail policy simulate shipped draft.toml`
    """
    from feature_repo.errors import LongtailError
    from serving.gateway.simulation import simulate as compare

    settings: Settings = context.obj
    directory = decisions or settings.state.decisions
    report = compare(_newest(directory, last), _read(before), _read(after))
    if not report:
        raise LongtailError(
            f"{directory} has no decision with candidates; let a gateway rank first, or give --decisions"
        )
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _show(report)


def _newest(directory: Path, count: int) -> Iterator[Mapping[str, Any]]:
    """Segment by segment, from the newest on: a log is larger than memory."""
    from feature_repo.decisions import load, segments

    for path in reversed(segments(directory)):
        table = load(path)
        rows = table.slice(max(0, len(table) - count))
        count -= len(rows)
        for batch in rows.to_batches(max_chunksize=500):
            yield from batch.to_pylist()
        if count <= 0:
            return


def _read(file: str) -> Policy:
    from feature_repo.errors import LongtailError
    from serving.gateway.policy_book import SHIPPED as SHIPPED_FILE
    from serving.gateway.policy_book import parse

    path = SHIPPED_FILE if file == SHIPPED else Path(file)
    try:
        return parse(path.read_text(encoding="utf-8"), where=file)
    except (OSError, UnicodeDecodeError) as error:
        raise LongtailError(f"{file} cannot be read: {error}") from error


def _shown(value: Any) -> str:
    return "–" if value is None else json.dumps(value)


def _show(report: Mapping[str, Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="each cell: before → after")
    for heading in ("state", "lists", "changed", "first changed", "kept", "relevance", "novelty", "explored", "items"):
        table.add_column(heading, justify="left" if heading == "state" else "right")
    for state, found in sorted(report.items(), key=lambda one: (one[0] != "all", one[0])):
        pairs = [
            f"{found['before'][name]:.{digits}f} → {found['after'][name]:.{digits}f}"
            for name, digits in (("relevance", 4), ("novelty", 3), ("explored", 3), ("distinct_items", 0))
        ]
        shares = [f"{found[name]:.1%}" for name in ("changed", "first_changed", "kept")]
        table.add_row(state, str(found["lists"]), *shares, *pairs)
    Console(width=150).print(table)
