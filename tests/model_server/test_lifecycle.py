"""Versions come and go: with a fake loader, so that every failure can be had."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from serving.model_server.config import ModelConfig
from serving.model_server.lifecycle import LifecycleOptions, State
from serving.model_server.model import Model
from tests.model_server.fakes import FakeLoader, FakeServable, until

OPTIONS = LifecycleOptions(poll_wait_s=0.005, max_load_retries=2, load_retry_interval_s=0.005)


@contextlib.asynccontextmanager
async def watching(base_path: Path, loader: FakeLoader, options: LifecycleOptions = OPTIONS) -> AsyncIterator[Model]:
    with ThreadPoolExecutor(1) as executor:
        model = Model(ModelConfig(name="m", base_path=base_path), load=loader, executor=executor, options=options)
        task = asyncio.create_task(model.watch())
        try:
            yield model
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await model.close()


def states(model: Model) -> dict[int, State]:
    return {version.number: version.state for version in model.versions()}


async def test_a_new_version_replaces_the_old(tmp_path: Path) -> None:
    loader = FakeLoader()
    (tmp_path / "1").mkdir()
    async with watching(tmp_path, loader) as model:
        await model.ready()
        (tmp_path / "2").mkdir()
        await until(lambda: states(model) == {1: State.END, 2: State.AVAILABLE})
    assert loader.loaded["1"].is_closed
    assert loader.loaded["2"].is_closed


async def test_an_older_version_is_not_loaded(tmp_path: Path) -> None:
    loader = FakeLoader()
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    async with watching(tmp_path, loader) as model:
        await model.ready()
        assert states(model) == {2: State.AVAILABLE}


async def test_a_version_in_use_is_not_unloaded(tmp_path: Path) -> None:
    loader = FakeLoader()
    (tmp_path / "1").mkdir()
    async with watching(tmp_path, loader) as model:
        await model.ready()
        with model.available()[1].lease() as servable:
            (tmp_path / "2").mkdir()
            await until(lambda: states(model) == {1: State.UNLOADING, 2: State.AVAILABLE})
            await asyncio.sleep(0.02)
            assert servable is loader.loaded["1"]
            assert not loader.loaded["1"].is_closed
        await until(lambda: states(model)[1] is State.END)
        assert loader.loaded["1"].is_closed


async def test_a_bad_version_leaves_the_old_one_serving(tmp_path: Path) -> None:
    loader = FakeLoader()
    loader.failures["2"] = 100
    (tmp_path / "1").mkdir()
    async with watching(tmp_path, loader) as model:
        await model.ready()
        (tmp_path / "2").mkdir()
        await until(lambda: states(model) == {1: State.AVAILABLE, 2: State.END})
        error = model.versions()[0].error
        assert error is not None
        assert (error.code, error.message) == (grpc.StatusCode.DATA_LOSS, "2 is broken")
        await asyncio.sleep(0.03)
        assert loader.tries.count("2") == 1 + OPTIONS.max_load_retries
        (tmp_path / "3").mkdir()
        await until(lambda: states(model) == {1: State.END, 2: State.END, 3: State.AVAILABLE})


async def test_a_load_is_tried_again(tmp_path: Path) -> None:
    loader = FakeLoader()
    loader.failures["1"] = OPTIONS.max_load_retries
    (tmp_path / "1").mkdir()
    async with watching(tmp_path, loader) as model:
        await model.ready()
        assert states(model) == {1: State.AVAILABLE}
        assert model.versions()[0].error is None


async def test_a_newer_version_ends_the_retries_of_a_bad_one(tmp_path: Path) -> None:
    loader = FakeLoader()
    loader.failures["1"] = 1
    (tmp_path / "1").mkdir()
    patient = LifecycleOptions(poll_wait_s=0.005, max_load_retries=5, load_retry_interval_s=600)
    async with watching(tmp_path, loader, patient) as model:
        await until(lambda: loader.tries == ["1"])
        (tmp_path / "2").mkdir()
        await until(lambda: states(model) == {1: State.END, 2: State.AVAILABLE})


async def test_the_first_version_that_never_loads_is_an_error(tmp_path: Path) -> None:
    loader = FakeLoader()
    loader.failures["1"] = 100
    (tmp_path / "1").mkdir()
    async with watching(tmp_path, loader) as model:
        (version,) = await model.ready()
        assert "1 is broken" in str(version.error)


async def test_an_unforeseen_failure_to_load_ends_the_version_only(tmp_path: Path) -> None:
    def load(_: Path) -> FakeServable:
        raise ZeroDivisionError

    (tmp_path / "1").mkdir()
    with ThreadPoolExecutor(1) as executor:
        model = Model(ModelConfig(name="m", base_path=tmp_path), load=load, executor=executor, options=OPTIONS)
        await model.poll()
        (version,) = await model.ready()
    assert version.error is not None
    assert version.error.code is grpc.StatusCode.UNKNOWN
    assert "ZeroDivisionError" in version.error.message


async def test_withdrawing_a_version_brings_the_one_before_back(tmp_path: Path) -> None:
    loader = FakeLoader()
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    async with watching(tmp_path, loader) as model:
        await model.ready()
        (tmp_path / "2").rmdir()
        await until(lambda: states(model) == {1: State.AVAILABLE, 2: State.END})


async def test_withdrawing_a_bad_version_keeps_the_old_one(tmp_path: Path) -> None:
    loader = FakeLoader()
    loader.failures["2"] = 100
    (tmp_path / "1").mkdir()
    async with watching(tmp_path, loader) as model:
        await model.ready()
        (tmp_path / "2").mkdir()
        await until(lambda: states(model).get(2) is State.END)
        (tmp_path / "2").rmdir()
        await asyncio.sleep(0.03)
        assert states(model) == {1: State.AVAILABLE, 2: State.END}
        assert loader.tries.count("1") == 1
        (tmp_path / "2").mkdir()
        loader.failures["2"] = 0
        await until(lambda: states(model) == {1: State.END, 2: State.AVAILABLE})


async def test_withdrawing_every_version_unloads_the_model(tmp_path: Path) -> None:
    loader = FakeLoader()
    (tmp_path / "1").mkdir()
    async with watching(tmp_path, loader) as model:
        await model.ready()
        (tmp_path / "1").rmdir()
        await until(lambda: states(model) == {1: State.END})
        assert loader.loaded["1"].is_closed


async def test_a_base_path_that_goes_away_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base_path = tmp_path / "models"
    (base_path / "1").mkdir(parents=True)
    async with watching(base_path, FakeLoader()) as model:
        await model.ready()
        base_path.rename(tmp_path / "elsewhere")
        await until(lambda: "Could not find base path" in caplog.text)
        assert states(model) == {1: State.AVAILABLE}


async def test_an_empty_base_path_is_told_until_a_version_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(tmp_path, FakeLoader()) as model:
        await until(lambda: f"No versions of servable m found under base path {tmp_path}" in caplog.text)
        assert "longtail publish" in caplog.text
        (tmp_path / "1").mkdir()
        await model.ready()


async def test_a_base_path_that_is_a_file_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base_path = tmp_path / "file"
    base_path.write_text("")
    async with watching(base_path, FakeLoader()):
        await until(lambda: "it is a file; give the directory" in caplog.text)


async def test_polling_zero_times_looks_once(tmp_path: Path) -> None:
    loader = FakeLoader()
    (tmp_path / "1").mkdir()
    async with watching(tmp_path, loader, LifecycleOptions(poll_wait_s=0)) as model:
        await model.ready()
        (tmp_path / "2").mkdir()
        await asyncio.sleep(0.03)
        assert states(model) == {1: State.AVAILABLE}
