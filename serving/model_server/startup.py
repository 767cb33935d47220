"""From flags and the files they name to the options of a server; everything that is wrong is said here, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import grpc

from serving.model_server import config_file, metrics, session_batching, text_config
from serving.model_server import flags as flags_module
from serving.model_server.batching import BatchingOptions
from serving.model_server.config import ModelConfig
from serving.model_server.errors import StartError
from serving.model_server.flags import Flags
from serving.model_server.lifecycle import LifecycleOptions
from serving.model_server.rest import RestOptions
from serving.model_server.server import ServerOptions
from serving.model_server.session_batching import SessionBatchingOptions

_OUR_MODEL: Final = "longtail"
_THEIR_MODEL: Final = "default"


def server_options(flags: Flags, default_base_path: Path) -> ServerOptions:
    """What the flags mean. Raises StartError."""
    return ServerOptions(
        models=_models(flags, default_base_path),
        config_file=flags.model_config_file,
        config_poll_wait_s=flags.model_config_file_poll_wait_seconds,
        allows_labels_for_unavailable=flags.allow_version_labels_for_unavailable_models,
        checks_method_name=flags.enable_signature_method_name_check,
        host=flags.host,
        port=flags.port,
        socket_path=flags.grpc_socket_path,
        credentials=_credentials(flags.ssl_config_file),
        has_health=flags.enable_grpc_healthcheck_service,
        rest_port=flags.rest_api_port or None,
        rest=RestOptions(
            timeout_s=flags.rest_api_timeout_in_ms / 1e3,
            allows_cors=flags.rest_api_enable_cors_support,
            metrics_path=_metrics_path(flags),
        ),
        shutdown_grace_s=flags.shutdown_grace_seconds,
        load_threads=max(1, flags.num_load_threads),
        lifecycle=LifecycleOptions(
            poll_wait_s=flags.file_system_poll_wait_seconds,
            max_load_retries=flags.max_num_load_retries,
            load_retry_interval_s=max(0.0, flags.load_retry_interval_micros / 1e6),
        ),
        batching=_batching(flags),
        channel_arguments=flags_module.channel_arguments(flags.grpc_channel_arguments),
    )


def _models(flags: Flags, default_base_path: Path) -> tuple[ModelConfig, ...]:
    if flags.model_config_file:
        return config_file.read(flags.model_config_file)
    name = flags.model_name or (_THEIR_MODEL if flags.model_base_path else _OUR_MODEL)
    base_path = Path(flags.model_base_path).absolute() if flags.model_base_path else default_base_path.absolute()
    if base_path.exists() and not base_path.is_dir():
        raise StartError(f"--model_base_path {base_path} is a file; give the directory of the version directories")
    return (ModelConfig(name=name, base_path=base_path),)


def _batching(flags: Flags) -> BatchingOptions | SessionBatchingOptions:
    if flags.enable_batching:
        return session_batching.options(_batching_parameters(flags.batching_parameters_file))
    if flags.batching_parameters_file:
        raise StartError(
            "INVALID_ARGUMENT: server_options.batching_parameters_file is set without setting "
            "server_options.enable_batching to true."
        )
    return BatchingOptions(
        max_size=flags.micro_batch_max_size,
        wait_s=flags.micro_batch_wait_ms / 1e3,
        max_queue=flags.micro_batch_max_queue,
        workers=flags.workers,
    )


def _batching_parameters(path: str) -> Any:
    message_class = text_config.message_class("BatchingParameters")
    return text_config.read(path, message_class) if path else message_class()


def _metrics_path(flags: Flags) -> str | None:
    if not flags.monitoring_config_file:
        return None
    config = text_config.read(flags.monitoring_config_file, text_config.message_class("MonitoringConfig"))
    return (config.prometheus_config.path or metrics.PATH) if config.prometheus_config.enable else None


def _credentials(path: str) -> grpc.ServerCredentials | None:
    if not path:
        return None
    config = text_config.read(path, text_config.message_class("SSLConfig"))
    if not config.server_key or not config.server_cert:
        raise StartError(f"--ssl_config_file {path} needs server_key and server_cert, each the text of a PEM file")
    if config.client_verify and not config.custom_ca:
        raise StartError(f"--ssl_config_file {path} has client_verify and no custom_ca to verify clients with")
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
