"""Commands: the right to be forgotten."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cli.settings import Settings


def register(group: typer.Typer) -> None:
    """Adds these commands to `longtail features`."""
    group.command()(erase)


def erase(context: typer.Context, *, user: Annotated[str, typer.Option("--user", "-u", help="The user's id.")]) -> None:
    """Forget a user: in the event log, the tables, the online store, the decision log and the per-user weights.

    Prints what was removed where, and writes the proof to `erasures/`. What the user did before does not come back,
    also when it is imported again. Safe to repeat.

    Example: `longtail features erase --user 42`
    """
    from feature_repo.log.pseudonyms import open_pseudonyms
    from feature_repo.privacy.erasure import erase_user

    settings: Settings = context.obj
    pseudonyms = open_pseudonyms(settings.features.pseudonym_key_file)
    user_id = user if pseudonyms is None else pseudonyms.of(user)
    proof = erase_user(settings.state, settings.features, user_id, now=datetime.now(UTC))
    for removal in proof.removed:
        if removal.count:
            typer.echo(f"  {removal.holder}, {removal.part}: {removal.count}")
    typer.echo(f"removed {sum(removal.count for removal in proof.removed)} in all; a second look found nothing")
    for reason in proof.kept:
        typer.echo(f"  stays: {reason}")
    typer.echo(f"proof: {proof.file}")
