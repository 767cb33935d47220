"""The flags: tensorflow_model_server's by their names, and a few of our own.

A flag with `no_effect` is accepted and says so; one that is `refused` stops the start when it is used.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from serving.model_server.errors import StartError

SERVER: Final = "tensorflow_model_server's flags"
OURS: Final = "This server's own flags"
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
_KINDS: Final = {"int": "a whole number", "float": "a number", "str": "a text"}


def flag(
    default: Any, text: str, *, group: str = SERVER, no_effect: str = "", refused: str = "", minimum: int | None = None
) -> Any:
    """A field of `Flags`."""
    metadata = {"text": text, "group": group, "no_effect": no_effect, "refused": refused, "minimum": minimum}
    return dataclasses.field(default=default, metadata=metadata)


def _ours(default: Any, text: str, *, minimum: int | None = None) -> Any:
    return flag(default, text, group=OURS, minimum=minimum)


_ONE_PROCESS: Final = "requests share the event loop"
_CPU: Final = "the embedded server runs on the CPU"
_NO_TFLITE: Final = "export a SavedModel"


@dataclass(frozen=True, kw_only=True)
class Flags:
    """All flags and their values."""

    port: int = flag(8500, "gRPC port; 0 is any free one.")
    grpc_socket_path: str = flag("", "A UNIX socket to listen on for gRPC, too.")
    rest_api_port: int = flag(8501, "REST port; 0 is no REST.")
    rest_api_timeout_in_ms: int = flag(30_000, "How long a REST call may take.")
    rest_api_enable_cors_support: bool = flag(False, "Answer REST with CORS headers.")
    model_name: str = flag("", "The model's name in requests. Default: default, or longtail for the default path.")
    model_base_path: str = flag(
        "", "The directory of numbered version directories. Default: models/longtail in the state directory."
    )
    model_config_file: str = flag("", "ModelServerConfig as protobuf text: several models, policies, labels.")
    model_config_file_poll_wait_seconds: int = flag(0, "Seconds between two looks at that file; 0 looks once.")
    allow_version_labels_for_unavailable_models: bool = flag(
        False, "Let an unused label be given to a version that is not available yet; needed at the start."
    )
    file_system_poll_wait_seconds: int = flag(1, "Seconds between two looks for a new version; 0 looks once.")
    max_num_load_retries: int = flag(5, "How often to try again to load a version that fails.", minimum=0)
    load_retry_interval_micros: int = flag(60_000_000, "Microseconds between two such tries.")
    num_load_threads: int = flag(0, "Versions that may load at a time; 0 is one.", minimum=0)
    enable_model_warmup: bool = flag(True, "Run a version's warm-up requests before it serves.")
    num_request_iterations_for_warmup: int = flag(0, "How often each of them runs; 0 is once.", minimum=0)
    enable_signature_method_name_check: bool = flag(
        True, "Refuse signatures of another method; off for Classify and Regress on native TF2 signatures."
    )
    saved_model_tags: str = flag("serve", "Tags of the graph to load, with commas.")
    enable_batching: bool = flag(False, "Batch as tensorflow_model_server does, which changes what requests may be.")
    batching_parameters_file: str = flag("", "BatchingParameters as protobuf text.")
    tensorflow_session_parallelism: int = flag(0, "Sets the next two at once; 0 does not.")
    tensorflow_intra_op_parallelism: int = flag(1, "Threads within an operation.")
    tensorflow_inter_op_parallelism: int = flag(-1, "Threads between operations; -1 uses the thread of the run.")
    grpc_channel_arguments: str = flag("", "gRPC server arguments, key=value with commas.")
    ssl_config_file: str = flag("", "SSLConfig as protobuf text: TLS for gRPC.")
    monitoring_config_file: str = flag("", "MonitoringConfig as protobuf text: Prometheus metrics on the REST port.")
    enable_grpc_healthcheck_service: bool = flag(True, "grpc.health.v1.Health; there it is off unless asked for.")
    version: bool = flag(False, "Print the versions and exit.")

    rest_api_num_threads: int = flag(0, "Threads for REST.", no_effect=_ONE_PROCESS)
    grpc_max_threads: int = flag(0, "Threads for gRPC.", no_effect=_ONE_PROCESS)
    num_unload_threads: int = flag(0, "Versions that may unload at a time.", no_effect="they share the load threads")
    flush_filesystem_caches: bool = flag(
        True, "Flush file caches after loading.", no_effect="the operating system's caches are left alone"
    )
    per_process_gpu_memory_fraction: float = flag(0.0, "Share of the GPU's memory.", no_effect=_CPU)
    remove_unused_fields_from_bundle_metagraph: bool = flag(
        True, "Free the graph's description after loading.", no_effect="it is freed always"
    )
    enable_profiler: bool = flag(True, "The profiler's service.", no_effect="there is no profiler service here")
    mixed_precision: str = flag("", "Lower precision on oneDNN.", no_effect="put mixed precision into the graph")
    skip_initialize_tpu: bool = flag(False, "Leave TPUs alone.", no_effect=_CPU)
    num_tflite_pools: int = flag(0, "TFLite pools.", no_effect="there is no TFLite here")
    num_tflite_interpreters_per_pool: int = flag(0, "TFLite interpreters.", no_effect="there is no TFLite here")
    xla_cpu_compilation_enabled: bool = flag(
        False, "Compile with XLA.", refused="a signature that needs XLA is refused here: export it without jit_compile"
    )
    xla_gpu_compilation_enabled: bool = flag(False, "Compile with XLA.", refused=_CPU)
    platform_config_file: str = flag(
        "", "Platforms.", refused="use --tensorflow_intra_op_parallelism and --tensorflow_inter_op_parallelism"
    )
    tensorflow_session_config_file: str = flag(
        "", "ConfigProto.", refused="use --tensorflow_intra_op_parallelism and --tensorflow_inter_op_parallelism"
    )
    enable_per_model_batching_parameters: bool = flag(
        False, "Batching parameters beside a model.", refused="use --batching_parameters_file"
    )
    enable_serialization_as_tensor_content: bool = flag(
        False, "Answer in tensor_content.", refused="answers come in the value fields, the default there"
    )
    thread_pool_factory_config_file: str = flag("", "Thread pools.", refused="use --workers")
    use_alts_credentials: bool = flag(False, "ALTS.", refused="use --ssl_config_file")
    use_tflite_model: bool = flag(False, "Load model.tflite.", refused=_NO_TFLITE)
    prefer_tflite_model: bool = flag(False, "Prefer model.tflite.", refused=_NO_TFLITE)

    host: str = _ours("127.0.0.1", "Address to listen on; 0.0.0.0 is all.")
    micro_batch_max_size: int = _ours(8, "Rows of concurrent requests that may share a run; 1 turns it off.", minimum=1)
    micro_batch_wait_ms: float = _ours(0.0, "How long a request waits for company when a worker is free.", minimum=0)
    micro_batch_max_queue: int = _ours(1000, "Requests that may wait; more are answered UNAVAILABLE.", minimum=1)
    workers: int = _ours(max(1, (os.cpu_count() or 2) - 1), "Runs at a time. Default: the CPUs less one.", minimum=1)
    shutdown_grace_seconds: float = _ours(10.0, "How long requests that have begun may go on after SIGTERM.", minimum=0)


def parse(arguments: Sequence[str]) -> tuple[Flags, list[str]]:
    """The flags in a command line, and what to warn about. Raises StartError that says all that is wrong."""
    fields = {each.name: each for each in dataclasses.fields(Flags)}
    values: dict[str, Any] = {}
    wrong: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in fields:
            wrong.append(_unknown(argument, fields))
            continue
        if not equals and waiting and (fields[name].type != "bool" or waiting[0] in _BOOLEANS):
            text = waiting.pop(0)
        try:
            values[name] = _value(fields[name], text)
        except ValueError as error:
            wrong.append(f"Couldn't interpret value {text} for flag {name}: {error}")
    wrong += [_refusal(fields[name]) for name, value in values.items() if _is_refused(fields[name], value)]
    if wrong:
        raise StartError("; ".join(wrong))
    warnings = [_warning(fields[name]) for name in values if fields[name].metadata["no_effect"]]
    return Flags(**values), warnings


def table() -> list[tuple[str, str, str, str]]:
    """For a help page: each flag's group, name, default and text."""
    rows = []
    for each in dataclasses.fields(Flags):
        default = str(each.default).lower() if each.type == "bool" else str(each.default)
        hint = each.metadata["no_effect"] and f" No effect here: {each.metadata['no_effect']}."
        hint = hint or (each.metadata["refused"] and f" Not here: {each.metadata['refused']}.")
        rows.append((each.metadata["group"], each.name, default, f"{each.metadata['text']}{hint}"))
    return rows


def channel_arguments(text: str) -> list[tuple[str, str | int]]:
    """`key=value,key=value` as gRPC channel arguments; a value that is a number is passed as one."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    return [(key, int(value) if value.lstrip("-").isdigit() else value) for key, _, value in pairs]


def _value(each: dataclasses.Field[Any], text: str) -> Any:
    if each.type == "bool":
        if text and text not in _BOOLEANS:
            raise ValueError("write true or false")
        return _BOOLEANS.get(text, True)
    convert = {"int": int, "float": float, "str": str}[str(each.type)]
    try:
        value = convert(text)
    except ValueError as error:
        raise ValueError(f"it takes {_KINDS[str(each.type)]}") from error
    if each.metadata["minimum"] is not None and not value >= each.metadata["minimum"]:
        raise ValueError(f"the least is {each.metadata['minimum']}")
    return value


def _is_refused(each: dataclasses.Field[Any], value: Any) -> bool:
    return bool(each.metadata["refused"]) and value != each.default


def _refusal(each: dataclasses.Field[Any]) -> str:
    return (
        f"--{each.name} is a flag of tensorflow_model_server that the embedded server does not have: "
        f"{each.metadata['refused']}"
    )


def _warning(each: dataclasses.Field[Any]) -> str:
    return f"--{each.name} is accepted and has no effect: {each.metadata['no_effect']}"


def _unknown(argument: str, known: Iterable[str]) -> str:
    if not argument.startswith("-"):
        return f"unknown argument: {argument}; every argument is a flag: --name=value"
    name = argument.lstrip("-").partition("=")[0]
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown argument: {argument}" + (f"; did you mean --{near[0]}?" if near else "; see --help")
