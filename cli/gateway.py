"""Commands: gateway and token, and its client for people: rank, record, explain, status."""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connection import connected
from cli.settings import PREFIX, Settings

if TYPE_CHECKING:
    from serving.client import Client
    from serving.gateway.running.workers import Plan

UserOption = Annotated[str, typer.Option("--user", "-u", help="The user's id.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    for command in (gateway, rank, record, explain, status, token):
        app.command()(command)


def gateway(
    context: typer.Context,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes that share the port. Default: gateway.workers.")
    ] = None,
) -> None:
    """Serve activation rankings over gRPC until SIGTERM or Ctrl-C, which drain.

    SIGHUP reloads the policy and the tokens; SIGUSR1 writes the slow requests that are kept to the log.
    Example: `longtail gateway`, or `LONGTAIL_GATEWAY__ADDRESS=127.0.0.1:50052 longtail gateway`.
    """
    import asyncio

    settings: Settings = context.obj
    for early in (signal.SIGHUP, signal.SIGUSR1):  # until it serves there is nothing to reload or to write
        signal.signal(early, signal.SIG_IGN)
    if settings.gateway.log_format == "json":
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # lines of gRPC's own are no JSON
    from serving.gateway.observing import logs

    logs.configure(settings.gateway.log_format, settings.gateway.log_level)
    host = settings.gateway.address.rpartition(":")[0]

    def say(port: int) -> None:
        typer.echo(f"gateway ready at {host}:{port}")

    count = settings.gateway.workers if workers is None else workers
    if count > 1:
        from serving.gateway.running.workers import serve_with_workers

        serve_with_workers(_plan(settings, count), on_ready=say)
        return
    from serving.gateway.serve import serve

    asyncio.run(serve(settings.gateway, features=settings.features, state=settings.state, on_ready=say))


def _plan(settings: Settings, count: int) -> Plan:
    from serving.gateway.app import refuse_exposure
    from serving.gateway.running.workers import Plan

    ours = settings.gateway
    refuse_exposure(ours)
    host, _, port = ours.address.rpartition(":")

    def environ(number: int, address: str) -> dict[str, str]:
        mine = {
            "address": address,
            "workers": 1,
            "share_port": True,
            "metrics_address": "",
            "follow_feedback": ours.follow_feedback and number == 0,
        }
        return {f"{PREFIX}GATEWAY__{name.upper()}": str(value) for name, value in mine.items()}

    return Plan(
        count=count,
        command=(sys.executable, "-P", "-m", "cli.main", "--state-dir", str(settings.state_dir), "gateway"),
        environ=environ,
        host=host,
        port=int(port),
        metrics_address=ours.metrics_address,
        drain_s=ours.drain_s,
        beside_others=ours.share_port,
    )


@connected
def rank(
    client: Client,
    *,
    user: UserOption,
    items: Annotated[str, typer.Option(help="Items to rank, A,B,…; the gateway finds some when none are named.")] = "",
    limit: Annotated[int, typer.Option("-n", "--limit", help="How many items to show.")] = 10,
    explain: Annotated[bool, typer.Option("--explain", help="Show the terms of each item's value.")] = False,
) -> None:
    """Rank items for one user.

    Example: `longtail rank --user 42 --explain`, or `longtail rank --user 42 --items 50,172,181 -n 2`.
    """
    from serving.client import print_ranking

    named = [item for item in items.split(",") if item]
    print_ranking(client.rank(user, items=named, limit=limit, explain=explain))


@connected
def record(
    client: Client,
    *,
    user: UserOption,
    event_type: Annotated[str, typer.Option("--type", help="Such as view, click, purchase, rating, contact, opt_out.")],
    item: Annotated[
        str, typer.Option("--item", "-i", help="The item's id; contact, opt_out and opt_in may have none.")
    ] = "",
    time: Annotated[datetime | None, typer.Option(help="When it happened, UTC. Default: now.")] = None,
    value: Annotated[float | None, typer.Option(help="A rating, an amount or a quantity.")] = None,
    surface: Annotated[
        str | None,
        typer.Option(help="Where it happened; of contact, opt_out and opt_in the channel (default: none)."),
    ] = None,
    decision: Annotated[str, typer.Option(help="The decision that showed the item.")] = "",
) -> None:
    """Record one event of a user; the next ranking knows it.

    Example: `longtail record --user 42 --item 50 --type click --decision 1c9e…`, or `longtail record --user 42 --type
    opt_out --surface push`.
    """
    from serving.client import print_ack

    print_ack(
        client.record(
            user, event_type=event_type, item=item, time=time, value=value, surface=surface, decision_id=decision
        )
    )


@connected
def explain(
    client: Client,
    *,
    decision: Annotated[str, typer.Argument(help="The decision_id of an answer.")],
    considered: Annotated[
        bool, typer.Option("--considered", help="List all candidates that it was chosen from.")
    ] = False,
) -> None:
    """Tell why a past decision was what it was, from the decision log, and check that it can be computed again.

    Example: `longtail explain 01a212077433fe4830cf918be18f6924`
    """
    from serving.client import print_considered, print_explanation

    answer = client.explain(decision)
    print_explanation(answer)
    if considered:
        print_considered(answer)


@connected
def status(
    client: Client,
    *,
    user: Annotated[str, typer.Option("--user", "-u", help="Show what is known of this user too.")] = "",
    metrics: Annotated[
        str,
        typer.Option(help="Its metrics, HOST:PORT. Default: gateway.metrics_address, where no --address is given."),
    ] = "",
) -> None:
    """Show whether the gateway is well, how many workers, which model and policy it has, and what it knows of a user.

    Example: `longtail status --user 42`.
    """
    from serving.client import print_state, print_status
    from serving.worker_counts import told_workers

    print_status(client.status(), workers=told_workers(metrics or client.metrics_address))
    if user:
        print_state(client.state(user))


def token(
    caller: Annotated[str, typer.Option(help="Whom the token is for; it stands in quotas and the audit log.")],
    scope: Annotated[list[str], typer.Option(help="rank, record, select or admin; give it once for each.")],
    days: Annotated[int | None, typer.Option(min=1, help="The token ends after so many days.")] = None,
) -> None:
    """Make a bearer token: it is shown once; the entry for gateway.authorization.tokens_file has only its hash.

    Example: `longtail token --caller shop --scope rank --scope record >> tokens.toml`; the token goes to stderr.
    """
    from serving.gateway.access.caller import Scope
    from serving.gateway.access.tokens import entry_text, new_token

    known = {one.value for one in Scope}
    unknown = sorted(set(scope) - known)
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is no scope; there are {', '.join(sorted(known))}")
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    made = new_token()
    typer.echo(entry_text(made, caller=caller, scopes=frozenset(Scope(one) for one in scope), expires=expires))
    typer.echo(made, err=True)
