"""One list of models follows another: configuration, labels, reload. With fakes, so that every failure can be had."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import text_format

from longtail.tfserving import message_class
from serving.model_server import config_file
from serving.model_server.catalog import Catalog
from serving.model_server.config import ModelConfig, ModelServerConfig, model_configs
from serving.model_server.errors import ServingError, StartError
from serving.model_server.lifecycle import LifecycleOptions, State
from serving.model_server.model import Model
from serving.model_server.versions import specific
from tests.model_server.fakes import FakeLoader, until

QUICK = LifecycleOptions(poll_wait_s=0.005, max_load_retries=0)


@contextlib.asynccontextmanager
async def catalog_of(loader: FakeLoader, **keywords: Any) -> AsyncIterator[Catalog]:
    with ThreadPoolExecutor(1) as executor:

        def make_model(config: ModelConfig, changed: asyncio.Condition) -> Model:
            return Model(config, load=loader, executor=executor, options=QUICK, changed=changed)

        catalog = Catalog(make_model, **keywords)
        try:
            yield catalog
        finally:
            await catalog.close()


def spec(name: str, *, version: int | None = None, label: str = "") -> Any:
    message = message_class("tensorflow.serving.ModelSpec")(name=name)
    if version is not None:
        message.version.value = version
    elif label:
        message.version_label = label
    return message


def model(tmp_path: Path, name: str, *versions: int, labels: Mapping[str, int] | None = None) -> ModelConfig:
    """A model with these versions on disk."""
    for version in versions:
        (tmp_path / name / str(version)).mkdir(parents=True, exist_ok=True)
    return ModelConfig(name=name, base_path=tmp_path / name, labels=labels or {}, policy=specific(versions))


async def refused(catalog: Catalog, *configs: ModelConfig) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(ServingError) as caught:
        await catalog.reload(configs)
    return caught.value.code, caught.value.message


async def test_several_models_are_served_apart(tmp_path: Path) -> None:
    async with catalog_of(FakeLoader()) as catalog:
        await catalog.reload([model(tmp_path, "a", 1), model(tmp_path, "b", 1, 2)])
        await until(lambda: len(catalog.versions(spec("b"))) == 2)
        assert catalog.find(spec("a")).directory == tmp_path / "a" / "1"
        assert [version.number for version in catalog.versions(spec("b"))] == [2, 1]  # the greatest first


async def test_a_new_list_replaces_the_old_and_waits_for_what_is_new(tmp_path: Path) -> None:
    loader = FakeLoader()
    async with catalog_of(loader) as catalog:
        await catalog.reload([model(tmp_path, "a", 1)])
        await catalog.reload([model(tmp_path, "b", 7)])
        assert catalog.find(spec("b")).number == 7
        with pytest.raises(ServingError, match=r"Servable not found for request: Latest\(a\)"):
            catalog.find(spec("a"))
        await until(lambda: catalog.versions(spec("a"))[0].state is State.END)  # its end can still be asked for
        assert loader.loaded["1"].is_closed


async def test_a_model_that_comes_back_is_loaded_again(tmp_path: Path) -> None:
    loader = FakeLoader()
    a, b = model(tmp_path, "a", 1), model(tmp_path, "b", 2)
    async with catalog_of(loader) as catalog:
        for config in (a, b, a):
            await catalog.reload([config])
        assert catalog.find(spec("a")).number == 1
    assert loader.tries.count("1") in (1, 2)  # once, where it was wanted again before it was unloaded


async def test_a_new_model_that_does_not_load_is_told_with_its_cause(tmp_path: Path) -> None:
    loader = FakeLoader()
    loader.failures["2"] = 1
    async with catalog_of(loader) as catalog:
        await catalog.reload([model(tmp_path, "a", 1)])
        assert await refused(catalog, model(tmp_path, "a", 1), model(tmp_path, "b", 2)) == (
            grpc.StatusCode.UNKNOWN,
            "1 model(s) did not become available: {{{name: b version: 2} due to error: DATA_LOSS: 2 is broken}, }",
        )
        assert catalog.find(spec("a")).number == 1


async def test_the_policy_of_a_model_can_change(tmp_path: Path) -> None:
    async with catalog_of(FakeLoader()) as catalog:
        await catalog.reload([model(tmp_path, "a", 1)])
        await catalog.reload([model(tmp_path, "a", 1, 2)])
        await until(lambda: [version.state for version in catalog.versions(spec("a"))] == [State.AVAILABLE] * 2)


async def test_a_label_stands_for_its_version(tmp_path: Path) -> None:
    async with catalog_of(FakeLoader()) as catalog:
        await catalog.reload([model(tmp_path, "a", 1, 2)])
        await until(lambda: [version.state for version in catalog.versions(spec("a"))] == [State.AVAILABLE] * 2)
        await catalog.reload([model(tmp_path, "a", 1, 2, labels={"stable": 1, "canary": 2})])
        assert catalog.find(spec("a", label="stable")).number == 1
        assert catalog.find(spec("a", label="canary")).number == 2
        with pytest.raises(ServingError, match="Unrecognized servable version label: other"):
            catalog.find(spec("a", label="other"))


async def test_a_label_needs_an_available_version_and_changes_nothing_without(tmp_path: Path) -> None:
    async with catalog_of(FakeLoader()) as catalog:
        await catalog.reload([model(tmp_path, "a", 1)])
        await catalog.reload([model(tmp_path, "a", 1, labels={"stable": 1})])
        wrong = model(tmp_path, "a", 1, labels={"stable": 9})
        assert await refused(catalog, wrong, model(tmp_path, "b", 2)) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "Request to assign label to version 9 of model a, which is not currently available for inference",
        )
        assert catalog.find(spec("a", label="stable")).number == 1
        assert [config.name for config in catalog.configs] == ["a"]


async def test_an_unused_label_may_come_before_its_version_where_that_is_allowed(tmp_path: Path) -> None:
    async with catalog_of(FakeLoader(), allows_labels_for_unavailable=True) as catalog:
        await catalog.reload([model(tmp_path, "a", 1, labels={"stable": 1, "next": 9})])
        assert catalog.find(spec("a", label="stable")).number == 1
        with pytest.raises(ServingError, match=r"Servable not found for request: Specific\(a, 9\)"):
            catalog.find(spec("a", label="next"))
        code, _ = await refused(
            catalog, model(tmp_path, "a", 1, labels={"stable": 8})
        )  # in use: it never leads nowhere
        assert code is grpc.StatusCode.FAILED_PRECONDITION


async def test_availability_is_told_when_it_changes(tmp_path: Path) -> None:
    told: list[bool] = []

    async def tell(is_available: bool) -> None:
        told.append(is_available)

    async with catalog_of(FakeLoader()) as catalog:
        await catalog.reload([model(tmp_path, "a", 1)])
        task = asyncio.create_task(catalog.tell_availability(tell))
        await until(lambda: True in told)
        (tmp_path / "a" / "1").rmdir()
        await until(lambda: told[-1] is False)
        task.cancel()


def parsed(text: str) -> tuple[ModelConfig, ...]:
    return model_configs(text_format.Parse(f"model_config_list {{ {text} }}", ModelServerConfig()))


def test_a_configuration_says_where_and_which_versions_are() -> None:
    found = {number: Path(str(number)) for number in (1, 2, 3)}
    a, b, c, d = parsed(
        'config { name: "a" base_path: "/a" model_platform: "tensorflow" }'
        'config { name: "b" base_path: "file:///b" model_type: TENSORFLOW model_version_policy { all {} } }'
        'config { name: "c" base_path: "/c" model_platform: "tensorflow"'
        " model_version_policy { latest { num_versions: 2 } } }"
        'config { name: "d" base_path: "/d" model_platform: "tensorflow"'
        ' model_version_policy { specific { versions: 1 versions: 3 } } version_labels { key: "stable" value: 1 } }'
    )
    assert [str(config.base_path) for config in (a, b, c, d)] == ["/a", "/b", "/c", "/d"]
    assert [set(config.policy(found)) for config in (a, b, c, d)] == [{3}, {1, 2, 3}, {2, 3}, {1, 3}]
    assert d.labels == {"stable": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'config { name: "m" base_path: "/a" } config { name: "m" base_path: "/b" }',
            "Illegal to list model m multiple times in config list",
        ),
        (
            'config { name: "m" base_path: "rel" }',
            "Expected model m to have an absolute path or URI; got base_path()=rel",
        ),
        ('config { name: "m" base_path: "gs://b" model_platform: "tensorflow" }', "reads the local file system only"),
        (
            'config { name: "m" base_path: "/a" }',
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform.",
        ),
        (
            'config { name: "m" base_path: "/a" model_type: TENSORFLOW model_platform: "tensorflow" }',
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform.",
        ),
        (
            'config { name: "m" base_path: "/a" model_type: OTHER }',
            "ModelServerConfig::model_type choice 2 not support",
        ),
        ('config { name: "m" base_path: "/a" model_platform: "x" }', "Model m requests unsupported platform x"),
    ],
)
def test_a_wrong_configuration_is_told(text: str, said: str) -> None:
    with pytest.raises(ServingError) as caught:
        parsed(text)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert said in caught.value.message


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"NOT_FOUND: .*models\.config; No such file or directory"):
        config_file.read(str(tmp_path / "models.config"))


async def test_a_configuration_file_is_followed_and_a_wrong_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "models.config"

    def write(name: str) -> None:
        base_path = model(tmp_path, name, 1).base_path
        path.write_text(
            f'model_config_list {{ config {{ name: "{name}" base_path: "{base_path}" model_platform: "tensorflow" }} }}'
        )

    write("a")
    async with catalog_of(FakeLoader()) as catalog:
        await catalog.reload(config_file.read(str(path)))
        task = asyncio.create_task(config_file.watch(str(path), catalog, 0.005))
        path.write_text("improperly formatted file")
        await until(lambda: "Invalid protobuf file" in caplog.text)
        assert catalog.find(spec("a")).number == 1
        write("b")
        await until(lambda: [config.name for config in catalog.configs] == ["b"])
        task.cancel()
