"""Commands: gateway, and its client for people: rank, record, status."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Annotated

import typer

from cli.settings import Settings

Address = Annotated[str, typer.Option(help="The gateway, HOST:PORT. Default: gateway.address of the settings.")]
UserOption = Annotated[str, typer.Option("--user", "-u", help="The user's id.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    for command in (gateway, rank, record, status):
        app.command()(command)


def gateway(context: typer.Context) -> None:
    """Serve activation rankings over gRPC until SIGTERM or Ctrl-C, which drain.

    SIGHUP reloads the policy.
    Example: `longtail gateway`, or `LONGTAIL_GATEWAY__ADDRESS=0.0.0.0:50051 longtail gateway`.
    """
    import asyncio

    from serving.gateway.serve import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("feast").setLevel(logging.WARNING)  # it tells of each look into its registry
    settings: Settings = context.obj
    host = settings.gateway.address.rpartition(":")[0]

    def say(port: int) -> None:
        typer.echo(f"gateway ready at {host}:{port}")

    asyncio.run(serve(settings.gateway, features=settings.features, state=settings.state, on_ready=say))


def rank(
    context: typer.Context,
    *,
    user: UserOption,
    items: Annotated[str, typer.Option(help="Items to rank, A,B,…; the gateway finds some when none are named.")] = "",
    limit: Annotated[int, typer.Option("-n", "--limit", help="How many items to show.")] = 10,
    explain: Annotated[bool, typer.Option("--explain", help="Show the terms of each item's value.")] = False,
    address: Address = "",
) -> None:
    """Rank items for one user.

    Example: `longtail rank --user 42 --explain`, or `longtail rank --user 42 --items 50,172,181 -n 2`.
    """
    from serving.client import Client, print_ranking

    with Client(address or _address(context)) as client:
        named = [item for item in items.split(",") if item]
        print_ranking(client.rank(user, items=named, limit=limit, explain=explain))


def record(
    context: typer.Context,
    *,
    user: UserOption,
    item: Annotated[str, typer.Option("--item", "-i", help="The item's id.")],
    event_type: Annotated[str, typer.Option("--type", help="Such as view, click, purchase, rating.")],
    time: Annotated[datetime | None, typer.Option(help="When it happened, UTC. Default: now.")] = None,
    value: Annotated[float | None, typer.Option(help="A rating, an amount or a quantity.")] = None,
    address: Address = "",
) -> None:
    """Record one event of a user; the next ranking knows it.

    Example: `longtail record --user 42 --item 50 --type click`.
    """
    from serving.client import Client, print_ack

    with Client(address or _address(context)) as client:
        print_ack(client.record(user, item=item, event_type=event_type, time=time, value=value))


def status(
    context: typer.Context,
    *,
    user: Annotated[str, typer.Option("--user", "-u", help="Show what is known of this user too.")] = "",
    address: Address = "",
) -> None:
    """Show whether the gateway is well, which model and policy it uses, and what it knows of a user.

    Example: `longtail status --user 42`.
    """
    from serving.client import Client, print_state, print_status

    with Client(address or _address(context)) as client:
        print_status(client.status())
        if user:
            print_state(client.state(user))


def _address(context: typer.Context) -> str:
    settings: Settings = context.obj
    return settings.gateway.address
