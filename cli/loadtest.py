"""Commands: loadtest."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connection import Ca, Cert, Key, TokenFile, client_settings
from feature_repo.errors import LongtailError

if TYPE_CHECKING:
    from cli.settings import Settings
    from loadtest.plan import Plan
    from loadtest.report import Report
    from loadtest.slo import Verdict


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.command()(loadtest)


def loadtest(
    context: typer.Context,
    *,
    profile: Annotated[str, typer.Option(help="smoke, default, stress, or one of --profiles-file.")] = "default",
    profiles_file: Annotated[Path | None, typer.Option(help="Your own profiles.toml.")] = None,
    address: Annotated[str | None, typer.Option(help="The gateway; default: as set.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests due per second.")] = None,
    users: Annotated[int | None, typer.Option(help="Concurrent callers.")] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds, warm-up included.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Seconds whose requests are not counted.")] = None,
    closed_loop: Annotated[
        bool | None, typer.Option("--closed-loop", help="Each caller asks again once answered; no rate.")
    ] = None,
    record_share: Annotated[
        float, typer.Option(help="Share of RecordEvents. It WRITES to the event log, so it is 0 by default.")
    ] = 0.0,
    users_from: Annotated[
        Path | None, typer.Option(help="User ids, most active first: one a line, or Parquet with user_id.")
    ] = None,
    items_from: Annotated[Path | None, typer.Option(help="Item ids likewise: one a line, or item_id.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed asks the same.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Where the report goes; default: loadtest/ in the state.")] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow an address that is not on this machine.")
    ] = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    token_file: TokenFile = None,
) -> None:
    """Puts load on the gateway and judges it: exit code 0 if its objectives are met, 1 if not.

    Example: `longtail loadtest --profile smoke --address 127.0.0.1:50051`
    """
    from loadtest import profiles, report
    from loadtest.errors import LoadTestError
    from loadtest.plan import Line, Plan, check_address
    from serving.client_credentials import ClientCredentials

    settings: Settings = context.obj
    client = client_settings(settings, ca=ca, cert=cert, key=key, token_file=token_file)
    token = ClientCredentials.read(client).token
    try:
        chosen = profiles.load(
            profile,
            profiles_file or profiles.SHIPPED,
            overrides={
                "rate_per_s": rate,
                "callers": users,
                "duration_s": duration,
                "warmup_s": warmup,
                "closed_loop": closed_loop,
            },
        )
        if record_share:
            chosen = chosen.model_copy(update={"requests": chosen.requests.with_record_share(record_share)})
        plan = Plan(
            profile_name=profile,
            profile=chosen,
            address=check_address(address or settings.gateway.address, allow_remote=allow_remote),
            seed=seed,
            user_ids_file=users_from or _if_there(settings.state.features / "user_activity.parquet"),
            item_ids_file=items_from or _if_there(settings.state.items / "items.parquet"),
            line=Line(tls=client.tls, ca_file=client.ca_file, cert_file=client.cert_file, key_file=client.key_file),
        )
        directory = out or settings.state.root / "loadtest" / f"{profile}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        result = _run_with_progress(plan, directory, token=token)
    except LoadTestError as error:
        raise LongtailError(str(error)) from error
    html, data = report.write(result, directory)
    _print(result)
    typer.echo(f"report: {html}\n        {data}")
    if not result.passed:
        raise typer.Exit(1)


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _run_with_progress(plan: Plan, directory: Path, *, token: str) -> Report:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from loadtest import session

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=plan.profile.duration_s)

        def show(made: int, failed: int) -> None:
            bar.update(task, advance=1, description=f"{made} requests, {failed} failed")

        return session.run(plan, directory, token=token, progress=show)


def _print(result: Report) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    rows = Table(title="Measured, latency in ms", box=box.SIMPLE, padding=0, collapse_padding=True)
    rows.add_column("", no_wrap=True)
    for heading in ("asked", "ok/s", "p50", "p95", "p99", "degraded", "errors"):
        rows.add_column(heading, justify="right", no_wrap=True)
    summary = result.summary
    for row in (*summary.states, *summary.rpcs, summary.total):
        times = (_number(time, digits=1 if time < 100 else 0) for time in (row.p50_ms, row.p95_ms, row.p99_ms))
        rows.add_row(
            escape(row.name),
            str(row.requests),
            f"{row.throughput_per_s:.1f}",
            *times,
            f"{row.degraded_share:.1%}",
            str(row.requests - row.answered),
        )
    console.print(rows)
    if summary.total.errors:
        typer.echo("errors: " + ", ".join(f"{code} {count}" for code, count in summary.total.errors.items()) + "\n")
    objectives = Table("objective", "limit", "measured", "", title="Objectives", box=box.SIMPLE)
    for verdict in result.verdicts:
        objectives.add_row(*_cells(verdict))
    console.print(objectives)


def _cells(verdict: Verdict) -> tuple[str, str, str, str]:
    word = "[green]met[/]" if verdict.passed else "[red]missed[/]"
    return (
        verdict.name,
        f"{verdict.limit:g}",
        f"{verdict.measured:.4g}".replace("inf", "none").replace("nan", "-"),
        word,
    )


def _number(value: float, *, digits: int) -> str:
    if math.isnan(value):
        return "-"
    return "none" if math.isinf(value) else f"{value:.{digits}f}"
