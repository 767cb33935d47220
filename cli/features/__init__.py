"""Commands: `longtail features`."""

from __future__ import annotations

import typer

from cli.features import erase, online, skew, tables

group = typer.Typer(help="Make features and serve them.", no_args_is_help=True, rich_markup_mode="markdown")
for part in (tables, online, skew, erase):
    part.register(group)


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.add_typer(group, name="features")
