"""tensorflow_model_server's flags that the embedded server does not have: what to say about each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

IGNORED: Final = {
    "flush_filesystem_caches": "the operating system's caches are left alone",
    "num_load_threads": "versions load one at a time",
    "num_unload_threads": "versions unload one at a time",
    "per_process_gpu_memory_fraction": "the embedded server runs on the CPU",
    "rest_api_num_threads": "REST shares the event loop",
    "allow_version_labels_for_unavailable_models": "there are no labels to assign",
}
REFUSED: Final = {
    "enable_batching": "it changes what requests are allowed; requests are micro-batched here without changing "
    "answers, see --micro_batch_max_size",
    "batching_parameters_file": "use --micro_batch_max_size, --micro_batch_wait_ms and --micro_batch_max_queue",
    "model_config_file": "serve one model with --model_name and --model_base_path",
    "monitoring_config_file": "there are no metrics here; the gateway has them",
    "platform_config_file": "use --tensorflow_intra_op_parallelism and --tensorflow_inter_op_parallelism",
    "ssl_config_file": "listen on loopback, or put a TLS proxy in front",
    "grpc_socket_path": "use --host and --port",
    "use_tflite_model": "export a SavedModel",
    "prefer_tflite_model": "export a SavedModel",
}


def sort_flags(arguments: Sequence[str], known: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of arguments that no option took: what to warn about, and what to refuse."""
    warnings: list[str] = []
    refusals: list[str] = []
    for before, argument in pairwise(["=", *arguments]):
        name = argument.lstrip("-").partition("=")[0]
        if not argument.startswith("-"):
            if "=" in before or not before.startswith("-"):  # else it is the value of the flag before it
                refusals.append(f"Got unexpected argument {argument!r}; every argument is a flag: --name=value")
        elif name in IGNORED:
            warnings.append(f"--{name} is accepted and has no effect: {IGNORED[name]}")
        elif name in REFUSED:
            refusals.append(
                f"--{name} is a flag of tensorflow_model_server that the embedded server does not have: {REFUSED[name]}"
            )
        else:
            near = difflib.get_close_matches(name, list(known), n=1)
            refusals.append(f"No such flag: --{name}" + (f"; did you mean --{near[0]}?" if near else "; see --help"))
    return warnings, refusals


def channel_arguments(text: str) -> list[tuple[str, str | int]]:
    """`key=value,key=value` as gRPC channel arguments; a value that is a number is passed as one."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    return [(key, int(value) if value.lstrip("-").isdigit() else value) for key, _, value in pairs]
