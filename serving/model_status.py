"""Asks a model server, the embedded one or TensorFlow Serving, whether it has loaded a version."""

from __future__ import annotations

import time
from typing import Any, Final

import grpc

from feature_repo.errors import LongtailError
from longtail.tfserving import message_class

_METHOD: Final = "/tensorflow.serving.ModelService/GetModelStatus"
_AVAILABLE: Final = 30  # ModelVersionStatus.State
_END: Final = 50
POLL_S: Final = 0.2


class ModelStatusError(LongtailError):
    """The server did not load the version, or did not answer."""


def await_version(address: str, *, model: str, version: int, timeout_s: float) -> None:
    """Returns when the version is AVAILABLE. Raises ModelStatusError when it failed to load, or after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    with grpc.insecure_channel(address) as channel:
        while True:
            state, said = _state(channel, model, version)
            if state == _AVAILABLE:
                return
            if state == _END and said:
                raise ModelStatusError(f"{address} could not load version {version} of {model}: {said}")
            if time.monotonic() > deadline_s:
                raise ModelStatusError(
                    f"{address} has not loaded version {version} of {model} within {timeout_s:g} s ({said or state}); "
                    "does it run with this --model_config_file and --model_config_file_poll_wait_seconds?"
                )
            time.sleep(POLL_S)


def _state(channel: grpc.Channel, model: str, version: int) -> tuple[int, str]:
    """0 when it is not known there, or nothing answers; and what is said of it."""
    request = message_class("tensorflow.serving.GetModelStatusRequest")(
        model_spec={"name": model, "version": {"value": version}}
    )
    ask: Any = channel.unary_unary(
        _METHOD,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_class("tensorflow.serving.GetModelStatusResponse").FromString,
    )
    try:
        answer = ask(request, timeout=2)
    except grpc.RpcError as error:
        return 0, f"{error.code().name}: {error.details()}"
    status = answer.model_version_status[0]
    return int(status.state), str(status.status.error_message)
