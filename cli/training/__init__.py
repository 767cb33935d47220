"""Commands: from the event log to a version in service."""

from __future__ import annotations

import typer

from cli.training import evaluate, publish, release, train, tune


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    for part in (train, evaluate, publish, tune, release):
        part.register(app)
