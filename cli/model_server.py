"""Commands: model-server."""

from __future__ import annotations

import logging
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from serving.model_server.servable import Load

_SERVER = "tensorflow_model_server's flags"
_OURS = "This server's own flags"


class _Bool(StrEnum):
    TRUE = "true"
    FALSE = "false"


def register(app: typer.Typer) -> None:
    """Adds these commands to `longtail`."""
    app.command("model-server", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
        model_server
    )


def model_server(
    context: typer.Context,
    *,
    port: Annotated[int, typer.Option("--port", help="gRPC port.", rich_help_panel=_SERVER)] = 8500,
    rest_api_port: Annotated[
        int, typer.Option("--rest_api_port", help="REST port; 0 is no REST.", rich_help_panel=_SERVER)
    ] = 8501,
    model_name: Annotated[
        str, typer.Option("--model_name", help="The model's name in requests.", rich_help_panel=_SERVER)
    ] = "longtail",
    model_base_path: Annotated[
        Path | None,
        typer.Option(
            "--model_base_path",
            help="The directory of numbered version directories. Default: models/longtail in the state directory.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    file_system_poll_wait_seconds: Annotated[
        int,
        typer.Option(
            "--file_system_poll_wait_seconds",
            help="Seconds between two looks for a new version; 0 looks once.",
            rich_help_panel=_SERVER,
            min=0,
        ),
    ] = 1,
    max_num_load_retries: Annotated[
        int,
        typer.Option(
            "--max_num_load_retries",
            help="How often to try again to load a version that fails.",
            rich_help_panel=_SERVER,
            min=0,
        ),
    ] = 5,
    load_retry_interval_micros: Annotated[
        int,
        typer.Option(
            "--load_retry_interval_micros",
            help="Microseconds between two such tries.",
            rich_help_panel=_SERVER,
            min=0,
        ),
    ] = 60_000_000,
    enable_model_warmup: Annotated[
        _Bool,
        typer.Option(
            "--enable_model_warmup",
            help="Run a version's warm-up requests before it serves.",
            rich_help_panel=_SERVER,
        ),
    ] = _Bool.TRUE,
    saved_model_tags: Annotated[
        str,
        typer.Option("--saved_model_tags", help="Tags of the graph to load, with commas.", rich_help_panel=_SERVER),
    ] = "serve",
    tensorflow_session_parallelism: Annotated[
        int,
        typer.Option(
            "--tensorflow_session_parallelism", help="Sets the next two at once; 0 does not.", rich_help_panel=_SERVER
        ),
    ] = 0,
    tensorflow_intra_op_parallelism: Annotated[
        int,
        typer.Option("--tensorflow_intra_op_parallelism", help="Threads within an operation.", rich_help_panel=_SERVER),
    ] = 1,
    tensorflow_inter_op_parallelism: Annotated[
        int,
        typer.Option(
            "--tensorflow_inter_op_parallelism",
            help="Threads between operations; -1 uses the thread of the run.",
            rich_help_panel=_SERVER,
        ),
    ] = -1,
    grpc_channel_arguments: Annotated[
        str,
        typer.Option(
            "--grpc_channel_arguments",
            help="gRPC server arguments, key=value with commas.",
            rich_help_panel=_SERVER,
        ),
    ] = "",
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is all.", rich_help_panel=_OURS)
    ] = "127.0.0.1",
    micro_batch_max_size: Annotated[
        int,
        typer.Option(
            "--micro_batch_max_size",
            help="Rows of concurrent requests that may share a run; 1 turns it off.",
            rich_help_panel=_OURS,
            min=1,
        ),
    ] = 32,
    micro_batch_wait_ms: Annotated[
        float,
        typer.Option(
            "--micro_batch_wait_ms",
            help="How long a request waits for company when a worker is free.",
            rich_help_panel=_OURS,
            min=0,
        ),
    ] = 0.0,
    micro_batch_max_queue: Annotated[
        int,
        typer.Option(
            "--micro_batch_max_queue",
            help="Requests that may wait; more are answered UNAVAILABLE.",
            rich_help_panel=_OURS,
            min=1,
        ),
    ] = 1000,
    workers: Annotated[
        int,
        typer.Option("--workers", help="Runs at a time. Default: the CPUs less one.", rich_help_panel=_OURS, min=1),
    ] = max(1, (os.cpu_count() or 2) - 1),
    shutdown_grace_seconds: Annotated[
        float,
        typer.Option(
            "--shutdown_grace_seconds",
            help="How long requests that have begun may go on after SIGTERM.",
            rich_help_panel=_OURS,
            min=0,
        ),
    ] = 10.0,
) -> None:
    """Serves a SavedModel as TensorFlow Serving does: same services, flags, errors and version handling.

    Example: `longtail model-server --port=8500 --rest_api_port=8501 --model_name=longtail --model_base_path=DIR`
    """
    from serving.model_server import flags, server
    from serving.model_server.batching import BatchingOptions
    from serving.model_server.lifecycle import LifecycleOptions

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _check_leftover_arguments(context)
    base_path = model_base_path or context.obj.state.models
    options = server.ServerOptions(
        model_name=model_name,
        model_base_path=base_path.absolute(),
        host=host,
        port=port,
        rest_port=rest_api_port or None,
        shutdown_grace_s=shutdown_grace_seconds,
        lifecycle=LifecycleOptions(
            poll_wait_s=file_system_poll_wait_seconds,
            max_load_retries=max_num_load_retries,
            load_retry_interval_s=load_retry_interval_micros / 1e6,
        ),
        batching=BatchingOptions(
            max_size=micro_batch_max_size,
            wait_s=micro_batch_wait_ms / 1e3,
            max_queue=micro_batch_max_queue,
            workers=workers,
        ),
        channel_arguments=flags.channel_arguments(grpc_channel_arguments),
    )
    server.check_startable(options)  # before TensorFlow is imported, which takes seconds
    load = _loader(
        tags=tuple(saved_model_tags.split(",")),
        intra_op_threads=tensorflow_session_parallelism or tensorflow_intra_op_parallelism,
        inter_op_threads=tensorflow_session_parallelism or tensorflow_inter_op_parallelism,
        is_warmed_up=enable_model_warmup is _Bool.TRUE,
    )
    server.run(options, load)


def _loader(*, tags: tuple[str, ...], intra_op_threads: int, inter_op_threads: int, is_warmed_up: bool) -> Load:
    from serving.model_server.tensorflow_servable import SessionOptions, loader

    session = SessionOptions(tags=tags, intra_op_threads=intra_op_threads, inter_op_threads=inter_op_threads)
    return loader(session, is_warmed_up=is_warmed_up)


def _check_leftover_arguments(context: typer.Context) -> None:
    from serving.model_server import flags

    known = [option.removeprefix("--") for parameter in context.command.params for option in parameter.opts]
    warnings, refusals = flags.sort_flags(context.args, known)
    for warning in warnings:
        logging.getLogger(__name__).warning(warning)
    if refusals:
        raise typer.BadParameter("; ".join(refusals), ctx=context)
