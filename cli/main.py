"""The command `longtail`: registers the sub-commands and turns expected failures into exit code 1."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import (
    console,
    data,
    demo,
    features,
    feedback,
    gateway,
    loadtest,
    model_server,
    outcomes,
    policy,
    report,
    returns,
    select,
    simulate,
    training,
    up,
)
from cli import settings as settings_module
from feature_repo.errors import LongtailError

_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

app = typer.Typer(
    name="longtail",
    help="Activates a product's long-tail users: which items to show them, and whom to contact at all.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def configure(
    context: typer.Context,
    state_dir: Annotated[
        Path | None, typer.Option(help="Where data, features and models are kept. Default: var, or LONGTAIL_STATE_DIR.")
    ] = None,
) -> None:
    """Settings come from longtail.toml and LONGTAIL_*; docs/settings.md lists them."""
    context.obj = settings_module.load({} if state_dir is None else {"state_dir": state_dir})


GROUPS = (
    demo,
    up,
    data,
    features,
    training,
    returns,
    model_server,
    gateway,
    select,
    policy,
    feedback,
    outcomes,
    report,
    simulate,
    loadtest,
    console,
)
for group in GROUPS:
    group.register(app)


def main() -> None:
    """Entry point: 0 is success, 1 an expected failure (explained on stderr), 2 wrong usage."""
    try:
        app()
    except LongtailError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except OSError as error:  # a disk that is full, a folder that is none or may not be written
        if error.filename is None and error.errno not in _OF_DISKS:  # what fails while it is written has no name
            raise
        what = "write" if error.filename is None else f"use {error.filename}"
        sys.stderr.write(f"error: cannot {what}: {error.strerror}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
