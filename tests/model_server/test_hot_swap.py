"""New versions under load, bad versions, draining: no request is lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.model_server.batching import BatchingOptions
from serving.model_server.lifecycle import State
from tests.model_server.conftest import PREDICTION_SERVICE, Client, error_of, predict_request, serving
from tests.model_server.fakes import FakeServable

Publish = Callable[..., Path]


async def test_a_new_version_under_load_loses_no_request(publish: Publish) -> None:
    base_path = publish(1, offset=1.0).parent
    answered: set[int] = set()
    stop = asyncio.Event()

    async def ask(client: Client) -> None:
        while not stop.is_set():
            response = await client.predict(predict_request({"x": [4.0]}))
            version = response.model_spec.version.value
            assert list(response.outputs["y"].float_val) == [
                2.0 + version
            ]  # never one version's name, another's answer
            answered.add(version)

    async with serving(base_path) as client:
        callers = [asyncio.create_task(ask(client)) for _ in range(8)]
        for version in (2, 3):
            publish(version, offset=float(version))
            await client.reaches(version, State.AVAILABLE)
            await client.reaches(version - 1, State.END)
        await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*callers)
    assert answered == {1, 2, 3}


def empty(directory: Path, _: Path) -> None:
    directory.mkdir()


def a_file(directory: Path, _: Path) -> None:
    directory.write_text("not a directory")


def of_another_format(directory: Path, _: Path) -> None:
    directory.mkdir()
    (directory / "saved_model.pb").write_bytes(b"")


def cut_off(directory: Path, model: Path) -> None:
    directory.mkdir()
    content = (model / "saved_model.pb").read_bytes()
    (directory / "saved_model.pb").write_bytes(content[: len(content) // 2])


def without_variables(directory: Path, model: Path) -> None:
    shutil.copytree(model, directory, ignore=shutil.ignore_patterns("variables"))


def with_variables_cut_off(directory: Path, model: Path) -> None:
    shutil.copytree(model, directory)
    for path in (directory / "variables").glob("*.data*"):
        path.write_bytes(path.read_bytes()[:10])


@pytest.mark.parametrize(
    "spoil", [empty, a_file, of_another_format, cut_off, without_variables, with_variables_cut_off]
)
async def test_a_bad_version_ends_with_a_reason_and_the_old_one_serves(
    publish: Publish, tmp_path: Path, saved_model: Callable[[float], Path], spoil: Callable[[Path, Path], None]
) -> None:
    base_path = publish(1).parent
    async with serving(base_path) as client:
        spoil(tmp_path / "spoilt", saved_model(2.0))
        (tmp_path / "spoilt").rename(base_path / "2")
        status = (await client.reaches(2, State.END)).status
        assert status.error_code != 0
        assert str(base_path / "2") in status.error_message
        assert await client.y([1.0]) == [2.5]
        assert (await client.states())[1].state == State.AVAILABLE


async def test_the_missing_model_file_is_named_as_by_the_real_server(publish: Publish, tmp_path: Path) -> None:
    base_path = publish(1).parent
    async with serving(base_path) as client:
        (base_path / "2").mkdir()
        status = (await client.reaches(2, State.END)).status
        assert status.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        assert status.error_message.startswith(
            f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {base_path / '2'}"
        )


async def test_requests_that_have_begun_are_answered_before_the_server_stops(base_path: Path) -> None:
    (base_path / "1").mkdir()
    servable, stop = FakeServable(), asyncio.Event()
    servable.may_run.clear()
    async with serving(base_path, load=lambda _: servable, stop=stop) as client:
        begun = asyncio.create_task(client.y([1.0]))
        await asyncio.to_thread(servable.has_started.wait, 20)
        health = health_pb2_grpc.HealthStub(client.channel).Watch(
            health_pb2.HealthCheckRequest(service=PREDICTION_SERVICE), timeout=20
        )
        assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
        stop.set()
        assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        health.cancel()
        servable.may_run.set()
        assert await begun == [2.5]
    assert servable.is_closed


async def test_a_request_past_its_deadline_is_not_run(base_path: Path) -> None:
    (base_path / "1").mkdir()
    servable = FakeServable()
    servable.may_run.clear()
    async with serving(base_path, load=lambda _: servable, batching=BatchingOptions(max_size=1)) as client:
        first = asyncio.create_task(client.y([1.0]))
        await asyncio.to_thread(servable.has_started.wait, 20)
        code, _ = await error_of(client.predict(predict_request({"x": [2.0]}), timeout_s=0.1))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.sleep(0.05)  # the server's clock for it began later than the client's
        last = asyncio.create_task(client.y([3.0, 4.0]))
        servable.may_run.set()
        assert await first == [2.5]
        assert await last == [3.5, 4.0]
    assert servable.runs == [1, 2]


async def test_a_full_queue_is_unavailable(base_path: Path) -> None:
    (base_path / "1").mkdir()
    servable = FakeServable()
    servable.may_run.clear()
    async with serving(base_path, load=lambda _: servable, batching=BatchingOptions(max_queue=1)) as client:
        first = asyncio.create_task(client.y([1.0]))
        await asyncio.to_thread(servable.has_started.wait, 20)
        waiting = [asyncio.create_task(client.y([float(i)])) for i in range(5)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        code, text = await error_of(done.pop())
        assert code is grpc.StatusCode.UNAVAILABLE
        assert text.startswith("The batch scheduling queue to which this task was submitted is full")
        servable.may_run.set()
        assert await first == [2.5]
        await asyncio.gather(*waiting, return_exceptions=True)
