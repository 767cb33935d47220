"""Command `select`: whom to contact now."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connection import connected

if TYPE_CHECKING:
    from longtail.activation.v1 import activation_pb2
    from serving.client import Client

STATES = ("new", "active", "casual", "at_risk", "dormant", "resurrected")


def register(app: typer.Typer) -> None:
    """Adds `select`."""
    app.command()(select)


@connected
def select(
    client: Client,
    *,
    campaign: Annotated[str, typer.Option(help="Its name; the same again goes on, and chooses nobody twice.")],
    segment: Annotated[str, typer.Option(help="States, A,B,… or `all`. Default: all, unless --users names some.")] = "",
    users: Annotated[Path | None, typer.Option(help="A file with a user id a line, instead of a segment.")] = None,
    max_contacts: Annotated[int | None, typer.Option(help="The budget: so many users at most.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="The budget: so much at most, by the channels' costs.")] = None,
    channels: Annotated[
        str, typer.Option(help="The channels that may be used, A,B,… Default: all of the policy.")
    ] = "",
    min_tail: Annotated[float | None, typer.Option(help="Least tail percentile; 1 is the least active user.")] = None,
    min_days_away: Annotated[float | None, typer.Option(help="Not seen for so many days at least.")] = None,
    max_days_away: Annotated[float | None, typer.Option(help="Not seen for so many days at most.")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", help="Items that go with each contact.")] = 5,
    holdout: Annotated[float, typer.Option(help="Share of the chosen who are held out, to measure by.")] = 0.1,
    out: Annotated[Path | None, typer.Option(help="Write all answers there, a JSON object a line.")] = None,
) -> None:
    """Choose users to contact under a budget: those whose return a contact is expected to raise most.

    Nothing is sent. Send what it says, and record an event of type `contact` with the channel for each.

    Example: `longtail select --campaign spring --segment dormant,at_risk --max-contacts 1000 --out spring.jsonl`
    """
    from google.protobuf.json_format import MessageToDict

    from longtail.activation.v1 import activation_pb2 as pb

    request = pb.SelectUsersRequest(
        campaign_id=campaign,
        max_contacts=max_contacts,
        max_cost=max_cost,
        channels=[name for name in channels.split(",") if name],
        limit=limit,
        holdout_rate=holdout,
    )
    if users is not None:
        request.user_ids.extend(_lines(users))
    if users is None or segment or any(one is not None for one in (min_tail, min_days_away, max_days_away)):
        request.segment.CopyFrom(
            pb.Segment(
                states=_states(segment),
                min_tail_percentile=min_tail,
                min_days_away=min_days_away,
                max_days_away=max_days_away,
            )
        )
    counts: Counter[str] = Counter()
    cost = effect = 0.0
    file = None if out is None else out.open("w")
    try:
        for decision in client.select(request):
            kind = _kind(decision)
            counts[kind] += 1
            if kind.startswith("contact"):
                cost += decision.cost
                effect += decision.expected_effect
            if file is not None:
                file.write(json.dumps(MessageToDict(decision, preserving_proto_field_name=True)) + "\n")
            elif kind.startswith("contact"):
                items = ",".join(item.item_id for item in decision.answer.items)
                typer.echo(f"{decision.user_id}\t{decision.channel}\t{decision.expected_effect:.4f}\t{items}")
    finally:
        if file is not None:
            file.close()
    for kind, count in sorted(counts.items()):
        sys.stderr.write(f"{count:8d} {kind}\n")
    sys.stderr.write(f"cost {cost:g}, expected to bring back {effect:.1f} users more than without\n")


def _states(segment: str) -> list[activation_pb2.Lifecycle.ValueType]:
    from longtail.activation.v1 import activation_pb2 as pb

    named = [] if segment in ("", "all") else segment.split(",")
    if unknown := [name for name in named if name not in STATES]:
        raise typer.BadParameter(f"{unknown[0]!r} is no state; there are {', '.join(STATES)}, or all")
    return [pb.Lifecycle.Value(f"LIFECYCLE_{name.upper()}") for name in named]


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line]
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}") from error


def _kind(decision: activation_pb2.UserDecision) -> str:
    from longtail.activation.v1 import activation_pb2 as pb

    answer = decision.answer
    if answer.decision == pb.DECISION_SHOW:
        return f"contact by {decision.channel} ({decision.basis})"
    return f"{pb.Decision.Name(answer.decision).removeprefix('DECISION_').lower()}: {answer.decision_reason}"
