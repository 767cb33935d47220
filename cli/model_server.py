"""Commands: model-server."""

from __future__ import annotations

import itertools
import logging
from importlib import metadata
from typing import TYPE_CHECKING, Final

import typer

from serving.model_server import flags as flags_module
from serving.model_server.errors import StartError
from serving.model_server.flags import Flags

if TYPE_CHECKING:
    from serving.model_server.servable import Load

FAILED: Final = 255  # tensorflow_model_server returns -1, whatever is wrong


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command("model-server", context_settings=settings, help=_help())(model_server)


def model_server(context: typer.Context) -> None:
    """Serves SavedModels as TensorFlow Serving does: same services, flags, errors and version handling."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        flags, warnings = flags_module.parse(context.args)
        for warning in warnings:
            logging.getLogger(__name__).warning(warning)
        if flags.version:
            _say_versions()
        else:
            _serve(context, flags)
    except StartError as error:
        typer.echo(f"error: Failed to start server. Error: {error}", err=True)
        raise typer.Exit(FAILED) from error


def _serve(context: typer.Context, flags: Flags) -> None:
    from serving.model_server import server, startup

    options = startup.server_options(flags, context.obj.state.models)
    server.check_startable(options)  # before TensorFlow is imported, which takes seconds
    server.run(options, _loader(flags))


def _loader(flags: Flags) -> Load:
    from serving.model_server.tensorflow_servable import SessionOptions, loader

    threads = flags.tensorflow_session_parallelism
    session = SessionOptions(
        tags=tuple(flags.saved_model_tags.split(",")),
        intra_op_threads=threads or flags.tensorflow_intra_op_parallelism,
        inter_op_threads=threads or flags.tensorflow_inter_op_parallelism,
    )
    return loader(
        session, warmup_iterations=max(1, flags.num_request_iterations_for_warmup) * flags.enable_model_warmup
    )


def _say_versions() -> None:
    typer.echo(f"TensorFlow ModelServer: longtail {metadata.version('longtail')}")
    typer.echo(f"TensorFlow Library: {metadata.version('tensorflow-cpu')}")


def _help() -> str:
    lines = [
        "Serves SavedModels as TensorFlow Serving does: same services, flags, errors and version handling.",
        "Example: `longtail model-server --port=8500 --rest_api_port=8501 --model_name=longtail --model_base_path=DIR`",
    ]
    for group, rows in itertools.groupby(flags_module.table(), key=lambda row: row[0]):
        flags = "\n".join(f"- `--{name}={default}` {text}" for _, name, default, text in rows)
        lines.append(f"**{group}**\n\n{flags}")
    return "\n\n".join(lines)
