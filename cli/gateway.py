"""Commands: gateway."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
