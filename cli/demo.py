"""Command `demo`: the main job on real data, as the commands a person would type, then three rankings."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cli.settings import Settings
from cli.up import running
from feature_repo.errors import LongtailError

if TYPE_CHECKING:
    from rich.table import Table

    from longtail.activation.v1 import activation_pb2

SHOWN = 8
STATES = ("active", "casual", "dormant")


class DemoError(LongtailError):
    """A step of the demo failed; its own output says why."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the demo, and whether its result is there already."""

    says: str
    arguments: tuple[str, ...]
    done: Callable[[Settings], bool] = lambda _settings: False


STEPS = (
    Step(says="MovieLens 100K into the event log", arguments=("data", "fetch", "ml-100k", "--shift-to-now")),
    Step(says="events to feature rows", arguments=("features", "build")),
    Step(says="Feast's registry", arguments=("features", "apply")),
    Step(
        says="train and evaluate on a temporal split",
        arguments=("train",),
        done=lambda settings: any(settings.state.models.glob("[0-9]*")),
    ),
    Step(
        says="report beside popularity",
        arguments=("evaluate",),
        done=lambda settings: (settings.state.training / "report.html").exists(),
    ),
    Step(
        says="SavedModel with its contract and warm-up",
        arguments=("export",),
        done=lambda settings: any(settings.state.models.glob("[0-9]*")),
    ),
    Step(
        says="rename it into the model server's folder",
        arguments=("publish",),
        done=lambda settings: any(settings.state.models.glob("[0-9]*")),
    ),
    Step(says="every user and item into the online store", arguments=("features", "materialize")),
)


def demo(context: typer.Context) -> None:
    """Run the whole path on MovieLens 100K, from raw events to three activation rankings over gRPC.

    Example: `longtail demo`, and when it is done `longtail up` to try by hand. A second run keeps the trained model.
    """
    settings: Settings = context.obj
    began_s = time.monotonic()
    for number, step in enumerate(STEPS, 1):
        _run(settings, number, step)
    _show_rankings(settings)
    state = "" if settings.state_dir == Path("var") else f"--state-dir {settings.state_dir} "
    typer.echo(f"\nDone in {time.monotonic() - began_s:.0f} s. Nothing is left running. To try by hand:")
    typer.echo(f"  make up                                    gateway at {settings.gateway.address}")
    typer.echo(f"  .venv/bin/longtail {state}rank --user 42 --explain")
    typer.echo(f"  open {settings.state.training / 'report.html'}")


def _run(settings: Settings, number: int, step: Step) -> None:
    typer.secho(f"\n[{number}/{len(STEPS)}] {step.says}", bold=True)
    if step.done(settings):
        typer.echo(f"kept from the last run; remove {settings.state_dir} to start anew")
        return
    arguments = ("--state-dir", str(settings.state_dir), *step.arguments)
    typer.secho(f"$ longtail {shlex.join(arguments)}", dim=True)
    if code := subprocess.run([sys.executable, "-P", "-m", "cli.main", *arguments], check=False).returncode:
        raise DemoError(f"`longtail {shlex.join(arguments)}` ended with exit code {code}; its output above says why")


def _show_rankings(settings: Settings) -> None:
    from rich.console import Console

    users = _users_by_state(settings)
    local = settings.model_copy(
        update={
            "gateway": settings.gateway.model_copy(
                update={"address": _free_address(), "model_server": _free_address(), "metrics_address": ""}
            )
        }
    )
    typer.secho("\nmodel server and gateway", bold=True)
    log_path = settings.state_dir / "demo-servers.log"
    with log_path.open("w") as log, running(local, log=log):
        typer.echo(f"ready at {local.gateway.address}; their log is {log_path}")
        for state, user_ids in users.items():
            Console(width=150).print(_table(settings, state, *_first_shown(local.gateway.address, user_ids)))


def _users_by_state(settings: Settings) -> dict[str, list[str]]:
    """Of each state the users by number of events from the median on, as the batch features say."""
    import pyarrow.parquet as pq

    columns = ["user_id", "state", "events"]
    rows = pq.read_table(settings.state.features / "user_activity.parquet", columns=columns).to_pylist()
    members: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: (row["events"], row["user_id"])):
        members.setdefault(row["state"], []).append(row["user_id"])
    return {state: members[state][len(members[state]) // 2 :] for state in STATES if state in members}


def _first_shown(address: str, user_ids: list[str]) -> tuple[str, activation_pb2.RankItemsResponse]:
    """The first user that is not held out, with the answer: the control group is shown nothing."""
    from longtail.activation.v1 import activation_pb2

    answers = ((user_id, _rank(address, user_id)) for user_id in user_ids)
    shown = next((one for one in answers if one[1].decision == activation_pb2.DECISION_SHOW), None)
    if shown is None:
        raise DemoError(f"none of {len(user_ids)} users is shown anything: the policy holds all of them out")
    return shown


def _rank(address: str, user_id: str) -> activation_pb2.RankItemsResponse:
    import grpc

    from longtail.activation.v1 import activation_pb2, activation_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        request = activation_pb2.RankItemsRequest(user_id=user_id, limit=SHOWN, explain=True, surface="demo")
        return activation_pb2_grpc.ActivationServiceStub(channel).RankItems(request, timeout=5)


def _table(settings: Settings, state: str, user_id: str, answer: activation_pb2.RankItemsResponse) -> Table:
    import pyarrow.parquet as pq
    from rich.table import Table

    from longtail.activation.v1 import activation_pb2

    stats = pq.read_table(
        settings.state.features / "item_stats.parquet", columns=["item_id", "title", "engagements"]
    ).to_pylist()
    titles = {row["item_id"]: row["title"] for row in stats}
    popular = sorted(stats, key=lambda row: (-row["engagements"], row["item_id"]))
    user = answer.user_state
    served = activation_pb2.Lifecycle.Name(user.state).removeprefix("LIFECYCLE_").lower()
    table = Table(
        title=f"{state} user {user_id}: served as {served}, {user.days_in_state:.0f} days in that state, "
        f"P(alive) {user.p_alive:.2f}, tail percentile {user.tail_percentile:.2f}"
        + (", DEGRADED" if answer.degraded else ""),
        title_justify="left",
    )
    for heading in ("#", "longtail shows", "value", "why", "popularity alone would show"):
        table.add_column(heading)
    for item, other in zip(answer.items, popular, strict=False):
        telling = [reason for reason in item.reasons if reason.term_value**reason.weight != 1]
        why = " × ".join(f"{reason.term} {reason.term_value:.2f}^{reason.weight:.2f}" for reason in telling)
        exploring = " (exploring)" if item.is_exploration else ""
        table.add_row(
            str(item.rank), titles.get(item.item_id, item.item_id) + exploring, f"{item.value:.3f}", why, other["title"]
        )
    return table


def _free_address() -> str:
    """An address on loopback that is free now: the demo must not collide with servers already running."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def register(app: typer.Typer) -> None:
    """Adds `demo`."""
    app.command()(demo)
