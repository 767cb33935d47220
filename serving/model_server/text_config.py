"""Configuration files: protobuf text, as tensorflow_model_server reads them.

The published stubs lack three of the messages, so their fields stand here.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from serving.model_server.errors import StartError

log = logging.getLogger(__name__)

_PACKAGE: Final = "tensorflow.serving"
_MESSAGES: Final[dict[str, dict[str, str]]] = {
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": "PrometheusConfig"},
    "SSLConfig": {"server_key": "string", "server_cert": "string", "custom_ca": "string", "client_verify": "bool"},
    "BatchingParameters": {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "thread_pool_name": "StringValue",
        "allowed_batch_sizes": "repeated int64",
        "pad_variable_length_inputs": "bool",
        "enable_large_batch_splitting": "BoolValue",
        "max_execution_batch_size": "Int64Value",
    },
}
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {"bool": _Field.TYPE_BOOL, "string": _Field.TYPE_STRING, "int64": _Field.TYPE_INT64}


def read(path: str, message_class: Any) -> Any:
    """The message in a text file. Raises StartError with the real server's text."""
    try:
        content = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise StartError(f"NOT_FOUND: {path}; {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StartError(f"INVALID_ARGUMENT: Invalid protobuf file: '{path}' ({error})") from error
    try:
        return text_format.Parse(content, message_class())
    except text_format.ParseError as error:
        log.error("Error parsing text-format %s: %s", message_class.DESCRIPTOR.full_name, error)
        raise StartError(f"INVALID_ARGUMENT: Invalid protobuf file: '{path}'") from error


@cache
def message_class(name: str) -> Any:
    """The class of one of the messages above, such as "MonitoringConfig"."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(
        name="model_server_configs.proto", package=_PACKAGE, syntax="proto3", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            _add_field(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return pool


def _add_field(message: Any, name: str, number: int, kind: str) -> None:
    repeated, _, kind = kind.rpartition(" ")
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if repeated:
        field.label = _Field.LABEL_REPEATED
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}" if kind in _MESSAGES else f".google.protobuf.{kind}"
