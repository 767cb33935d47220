"""Commands: `longtail policy`, to look at a policy before it decides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cli.settings import Settings
    from serving.gateway.policy.document import Policy

group = typer.Typer(help="Look at a policy before it decides.", no_args_is_help=True, rich_markup_mode="markdown")
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
SHIPPED = "shipped"
LOSS_HELP = "Share of NDCG@10 that novelty may cost users of `{}`."
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
    from serving.gateway.policy.difference import changes

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
    from serving.gateway.decisions.simulation import simulate as compare

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


@group.command()
def tune(
    candidates: Annotated[Path, typer.Argument(help="What `longtail evaluate --candidates` wrote.")],
    *,
    base: Annotated[str, typer.Option(help="The policy to start from: a file, or `shipped`.")] = SHIPPED,
    retain_loss: Annotated[float, typer.Option(min=0, max=1, help=LOSS_HELP.format("retain"))] = 0.01,
    activate_loss: Annotated[float, typer.Option(min=0, max=1, help=LOSS_HELP.format("activate"))] = 0.05,
    explore_loss: Annotated[float, typer.Option(min=0, max=1, help=LOSS_HELP.format("explore"))] = 0.01,
    out: Annotated[Path | None, typer.Option(help="Write the weights as sections for a policy.toml.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Choose for each objective how much novelty weighs, and in which share of the places: what the ranking can afford.

    Chosen on one half of the users, shown for the other half, beside pure relevance and the policy as it is.

    Example: `longtail evaluate --candidates c.parquet && longtail policy tune c.parquet --out weights.toml`
    """
    from serving.gateway.policy import tuning

    policy = _read(base)
    lists, chooses = tuning.read(_candidates(candidates))
    losses = {"retain": retain_loss, "activate": activate_loss, "explore": explore_loss}
    tuned = tuning.with_novelty(policy, tuning.tune(lists.of(chooses), policy, losses))
    report = tuning.judge(lists.of(~chooses), {"as it is": policy, "tuned": tuned})
    if out is not None:
        out.write_text(tuning.sections(tuned), "utf-8")
    if as_json:
        chosen = {name: tuning.of_objective(tuned, name)._asdict() for name in losses}
        typer.echo(json.dumps({"novelty": chosen, "groups": report}, indent=2))
        return
    for name in losses:
        before, after = (tuning.of_objective(one, name) for one in (policy, tuned))
        typer.echo(
            f"objectives.{name}: novelty {before.weight:g} in {before.share:.0%} of the places → "
            f"{after.weight:g} in {after.share:.0%}"
        )
    _show_tuning(report)
    if out is not None:
        typer.echo(f"{out}")


def _candidates(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from feature_repo.decisions.ranked_candidates import COLUMNS
    from feature_repo.errors import LongtailError

    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise LongtailError(
            f"{file} cannot be read: {error}; write it with `longtail evaluate --candidates`"
        ) from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing or not len(table):
        what = f"lacks the columns {', '.join(missing)}" if missing else "has no rows"
        raise LongtailError(f"{file} {what}; write it with `longtail evaluate --candidates`")
    return table


def _newest(directory: Path, count: int) -> Iterator[Mapping[str, Any]]:
    """Segment by segment, from the newest on: a log is larger than memory."""
    from feature_repo.decisions.records import load, segments

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
    from serving.gateway.policy.book import SHIPPED as SHIPPED_FILE
    from serving.gateway.policy.book import parse

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


def _show_tuning(report: Mapping[str, Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="the half that did not choose; changes are against pure relevance")
    for heading in ("users", "", "policy", "NDCG@10", "", "novelty, bits", "", "distinct items", ""):
        table.add_column(heading, justify="left" if heading in ("users", "policy") else "right")
    for name, found in report.items():
        pure = found["relevance"]
        for policy, one in ((key, value) for key, value in found.items() if key != "users"):
            cells = []
            for metric, digits in (("ndcg", 4), ("novelty_bits", 2), ("distinct_items", 0)):
                change = f"{one[metric] / pure[metric] - 1:+.1%}" if pure[metric] and one is not pure else ""
                cells += [f"{one[metric]:.{digits}f}", change]
            is_first = one is pure
            table.add_row(name if is_first else "", str(found["users"]) if is_first else "", policy, *cells)
    Console(width=120).print(table)
