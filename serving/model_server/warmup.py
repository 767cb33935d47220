"""Warm-up: the requests a version brings along are run before it becomes AVAILABLE; one that fails fails the load."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from longtail.tfserving import message_class
from serving.model_server import inference, signatures
from serving.model_server.errors import ServingError, invalid_argument
from serving.model_server.servable import Servable
from serving.model_server.signatures import Call

log = logging.getLogger(__name__)

FILE: Final = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS: Final = 1000

PredictionLog = message_class("tensorflow.serving.PredictionLog")
ReadRecords = Callable[[Path], Iterable[bytes]]


def warm_up(servable: Servable, directory: Path, read_records: ReadRecords, *, iterations: int = 1) -> int:
    """Runs the version's warm-up records, each `iterations` times; how many there were. Raises ServingError."""
    path = directory / FILE
    if not path.exists():
        log.info("No warmup data file found at %s; the first requests will be slow", path)
        return 0
    count = 0
    for record in _records(path, read_records):
        count += 1
        if count > MAX_RECORDS:
            raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
        for _ in range(iterations):
            _run(servable, record, f"warmup record {count} of {path}")
    log.info("warmed up records=%d file=%s", count, path)
    return count


def _records(path: Path, read_records: ReadRecords) -> Iterable[Any]:
    try:
        for record in read_records(path):
            try:
                yield PredictionLog.FromString(record)
            except DecodeError as error:
                raise invalid_argument(f"Failed to parse warmup record: {record[:100]!r} from {path}") from error
    except ServingError as error:
        if error.code is not grpc.StatusCode.DATA_LOSS:
            raise
        hint = "Please verify your warmup data is in TFRecord format."
        raise ServingError(error.code, f"{error.message}. {hint} ({path})") from error


def _run(servable: Servable, record: Any, where: str) -> None:
    kind = record.WhichOneof("log_type")
    if kind not in _CALLS:
        raise ServingError(
            grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind or 'none'} (in {where})"
        )
    try:
        call = _CALLS[kind](getattr(record, kind).request, servable)
        servable.run(call.signature, call.inputs, call.outputs)
    except ServingError as error:
        raise ServingError(error.code, f"{error.message} (in {where})") from error


def _predict(request: Any, servable: Servable) -> Call:
    return signatures.check(request, servable.signatures)


def _classify(request: Any, servable: Servable) -> Call:
    return _infer(request, inference.CLASSIFY, servable)


def _regress(request: Any, servable: Servable) -> Call:
    return _infer(request, inference.REGRESS, servable)


def _infer(request: Any, method: str, servable: Servable) -> Call:
    return inference.call([inference.task(request.model_spec.signature_name, method, servable.signatures)], request)


def _multi_inference(request: Any, servable: Servable) -> Call:
    if not request.tasks:
        raise invalid_argument("ModelSpec has no name specified.")
    return inference.call(inference.tasks(request, servable.signatures), request)


_CALLS: Final[Mapping[str, Callable[[Any, Servable], Call]]] = {
    "predict_log": _predict,
    "classify_log": _classify,
    "regress_log": _regress,
    "multi_inference_log": _multi_inference,
}
