"""Warm-up records come first, and one that fails fails the load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf

from longtail.tfserving import message_class
from serving.model_server.errors import ServingError
from serving.model_server.lifecycle import State
from serving.model_server.warmup import MAX_RECORDS, warm_up
from tests.model_server.conftest import predict_request, serving
from tests.model_server.fakes import FakeServable

PredictionLog = message_class("tensorflow.serving.PredictionLog")
Publish = Callable[..., Path]


def record(request: Any) -> bytes:
    content: bytes = PredictionLog(predict_log={"request": request}).SerializeToString()
    return content


GOOD = record(predict_request({"x": [1.0]}))
BAD = record(predict_request({"x": [1.0]}, signature="s"))


def tfrecord(tmp_path: Path, *records: bytes) -> bytes:
    path = tmp_path / "records"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content in records:
            writer.write(content)
    return path.read_bytes()


def warm(tmp_path: Path, *records: bytes) -> list[int]:
    """The runs of a warm-up with these records."""
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"")
    servable = FakeServable()

    def read(_: Path) -> Iterator[bytes]:
        yield from records

    assert warm_up(servable, tmp_path, read) == len(records)
    return servable.runs


def test_every_record_runs_once(tmp_path: Path) -> None:
    assert warm(tmp_path, GOOD, record(predict_request({"x": [1.0, 2.0]}))) == [1, 2]


def test_a_version_without_records_needs_no_warm_up(tmp_path: Path) -> None:
    assert warm_up(FakeServable(), tmp_path, lambda _: [GOOD]) == 0


def test_a_record_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r'Serving signature key "s" not found\. \(in warmup record 2 of ') as caught:
        warm(tmp_path, GOOD, BAD)
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION


def test_a_record_that_is_no_prediction_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="Failed to parse warmup record"):
        warm(tmp_path, b"\xff\xff")


def test_a_record_without_a_request_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="Unsupported log_type for warmup") as caught:
        warm(tmp_path, b"")
    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED


def test_too_many_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="exceeds the maximum"):
        warm(tmp_path, *[GOOD] * (MAX_RECORDS + 1))


async def test_a_version_with_records_becomes_available(publish: Publish, tmp_path: Path) -> None:
    base_path = publish(1, warmup=tfrecord(tmp_path, GOOD, GOOD)).parent
    async with serving(base_path) as client:
        assert await client.y([1.0]) == [2.5]


async def test_a_record_that_fails_fails_the_load(publish: Publish, tmp_path: Path) -> None:
    base_path = publish(1).parent
    async with serving(base_path) as client:
        publish(2, warmup=tfrecord(tmp_path, GOOD, BAD))
        status = (await client.reaches(2, State.END)).status
        assert status.error_code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
        assert await client.y([1.0]) == [2.5]


async def test_a_file_that_is_no_tfrecord_is_data_loss(publish: Publish) -> None:
    base_path = publish(1).parent
    async with serving(base_path) as client:
        publish(2, warmup=b"these are no records, but long enough to be read as a header")
        status = (await client.reaches(2, State.END)).status
        assert status.error_code == grpc.StatusCode.DATA_LOSS.value[0]
        assert "Please verify your warmup data is in TFRecord format." in status.error_message
