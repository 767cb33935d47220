"""Commands: what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from feature_repo.errors import LongtailError

if TYPE_CHECKING:
    import pandas as pd

    from cli.settings import Settings
    from outcomes.attribution import Attribution
    from outcomes.off_policy import Evaluation, Rounds

MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", help="item=, reward=, propensity=, and where there are place=, decision=, target= columns."),
]

OutcomeOption = Annotated[
    list[str] | None, typer.Option(help="Event types that are a success. Default: every engagement.")
]
WindowOption = Annotated[float, typer.Option(min=0.0, help="How long after it was shown a success counts.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.command()(ope)
    app.command()(impressions)


def ope(
    context: typer.Context,
    *,
    log: Annotated[
        str | None, typer.Option(help="A bandit log as Parquet or CSV. Default: our own decision log.")
    ] = None,
    columns: MapOption = None,
    where: Annotated[str | None, typer.Option(help="With --log: only rows of COLUMN=VALUE.")] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="The other policy. For our log: greedy, logged, or a table of decision_id, item_id, rank, "
            "probability; with --log, a table of item, probability and, if it matters, place."
        ),
    ] = None,
    outcome: OutcomeOption = None,
    window_days: WindowOption = 7.0,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Of the intervals.")] = 0.95,
    bootstrap: Annotated[int, typer.Option(min=0, help="Samples of the bootstrap; 0: normal intervals.")] = 0,
    least_effective_sample: Annotated[float, typer.Option(min=1, help="Below it the answer is refused.")] = 100.0,
    output: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here.")] = None,
) -> None:
    """Off-policy evaluation: what another policy would have earned on the requests that were logged.

    Example: `longtail ope --target greedy --outcome purchase`
    """
    from outcomes.off_policy import Support, evaluate

    settings: Settings = context.obj
    if log is None:
        rounds = _own_rounds(settings, target or "greedy", outcome, window_days)
    else:
        from outcomes.mapped_log import read_rounds

        rounds = read_rounds(log, _mapping(columns or []), target=target, where=where)
    support = Support(least_effective_sample=least_effective_sample)
    found = evaluate(rounds, confidence=confidence, bootstrap=bootstrap, support=support)
    _show(found)
    if output is not None:
        output.write_text(json.dumps(found.as_json(), indent=2) + "\n")


def impressions(
    context: typer.Context,
    *,
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    outcome: OutcomeOption = None,
    window_days: WindowOption = 7.0,
    most_weight: Annotated[float, typer.Option(min=1.0, help="No inverse propensity counts for more.")] = 20.0,
) -> None:
    """Writes every item shown with its propensity, rank and outcome: training data from the decision log.

    Left out are items whose window has not ended. The file names users: erasing one reaches it under the state
    directory only.

    Example: `longtail impressions --out impressions.parquet --outcome purchase`
    """
    from outcomes.impressions import impressions_of, write

    settings: Settings = context.obj
    attribution, events = _attribution(settings, outcome, window_days)
    until_unix_s = float(events["unix_s"].max()) if len(events) else 0.0
    made = impressions_of(attribution, window_days=window_days, until_unix_s=until_unix_s, most_weight=most_weight)
    write(made, out)
    positives = int(made.rows["label"].to_numpy().sum())
    typer.echo(f"{out}: {len(made.rows)} items shown, {positives} with an outcome; {made.not_due} not due yet")


def _own_rounds(settings: Settings, target: str, outcome: list[str] | None, window_days: float) -> Rounds:
    from outcomes.logged_rounds import Target, rounds_of

    attribution, _ = _attribution(settings, outcome, window_days)
    chosen = Target(target) if target in list(Target) else _table(target)
    return rounds_of(attribution.shown, chosen)


def _attribution(settings: Settings, outcome: list[str] | None, window_days: float) -> tuple[Attribution, pd.DataFrame]:
    """Of our own decision log; and the events."""
    from outcomes import decisions
    from outcomes.attribution import attribute
    from outcomes.event_frame import read_events

    log, events = decisions.read(settings.state.decisions), read_events(settings.state.events)
    attribution = attribute(log, events, outcomes=_outcomes(settings, events, outcome), window_days=window_days)
    typer.echo("outcomes: " + ", ".join(f"{count} {name}" for name, count in attribution.counts.items() if count))
    return attribution, events


def _outcomes(settings: Settings, events: pd.DataFrame, given: list[str] | None) -> frozenset[str]:
    known = set(events["event_type"].unique())
    if given is None:
        return frozenset(name for name in known if settings.features.weight(name) > 0)
    if missing := [name for name in given if name not in known]:
        raise LongtailError(
            f"--outcome {', '.join(missing)}: the event log has {', '.join(sorted(known)) or 'no event'}"
        )
    return frozenset(given)


def _table(target: str) -> pd.DataFrame:
    import duckdb

    from feature_repo.tabular import open_files

    if not Path(target).exists():
        raise LongtailError(f"--target is {target!r}; give greedy, logged, or a file with the policy's probabilities")
    with duckdb.connect() as con:
        frame: pd.DataFrame = con.execute(f"SELECT * FROM {open_files(con, target).sql}").df()  # noqa: S608
    types = {"decision_id": str, "item_id": str, "rank": int, "probability": float}
    return frame.astype({name: kind for name, kind in types.items() if name in frame.columns})


def _mapping(pairs: list[str]) -> dict[str, str]:
    mapping = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not equals or not column:
            raise typer.BadParameter(f"--map is {pair!r}; give NAME=COLUMN, such as reward=click")
        mapping[name] = column
    return mapping


def _show(found: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{found.rounds} rounds in {found.clusters} clusters")
    for heading in ("", "value", "standard error", f"{found.logged.confidence:.0%} interval"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, estimate in {"logged policy": found.logged, **found.estimates}.items():
        interval = "–" if estimate.low is None else f"{estimate.low:.6f} … {estimate.high:.6f}"
        error = "–" if estimate.standard_error is None else f"{estimate.standard_error:.6f}"
        table.add_row(name, f"{estimate.value:.6f}", error, interval)
    console = Console(highlight=False)
    console.print(table)
    unsupported = "unknown" if found.unsupported_mass is None else f"{found.unsupported_mass:.2%}"
    console.print(
        f"effective sample size {found.effective_sample_size:.0f}; weights: mean {found.mean_weight:.4f}, largest "
        f"{found.largest_weight:.1f}; of the policy never shown in the log: {unsupported}"
    )
