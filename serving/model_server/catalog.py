"""The models served here, what a ModelSpec means among them, and how one list of models follows another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc

from serving.model_server.config import ModelConfig
from serving.model_server.errors import ServingError, invalid_argument, not_found
from serving.model_server.lifecycle import Version
from serving.model_server.model import Model

Labels = Mapping[str, Mapping[str, int]]
"""Versions by model and label."""

MakeModel = Callable[[ModelConfig, asyncio.Condition], Model]


class Catalog:
    """Models by name. All methods belong to the event loop."""

    def __init__(self, make_model: MakeModel, *, allows_labels_for_unavailable: bool = False) -> None:
        self._make_model = make_model
        self._allows_labels_for_unavailable = allows_labels_for_unavailable
        self._changed = asyncio.Condition()
        self._models: dict[str, Model] = {}  # also those no longer listed: their status can be asked for
        self._watching: dict[str, asyncio.Task[None]] = {}  # by the names of the models that are listed
        self._labels: Labels = {}
        self._reloading = asyncio.Lock()
        self._replacing = asyncio.Lock()

    @property
    def configs(self) -> tuple[ModelConfig, ...]:
        """The current list."""
        return tuple(self._models[name].config for name in self._watching)

    async def reload(self, configs: Sequence[ModelConfig], *, what: str = "model") -> None:
        """Replaces the list of models; returns when the new ones are AVAILABLE. Raises ServingError."""
        async with self._reloading:
            labels = self._checked_labels(configs)
            new = [config.name for config in configs if config.name not in self._watching]
            # Whoever asked may give up while models load, but not leave half a list behind.
            await asyncio.shield(self._replace(configs, labels))
            await self._wait_until_available(new, what)

    async def tell_availability(self, tell: Callable[[bool], Awaitable[None]]) -> None:
        """Tells now, and after every change, whether all listed models have a version AVAILABLE; until cancelled."""
        async with self._changed:
            while True:
                await tell(all(self._models[name].available() for name in self._watching))
                await self._changed.wait()

    async def close(self) -> None:
        """Unloads everything; call it when no request can come any more."""
        await self._retire(tuple(self._watching))
        await asyncio.gather(*(model.close() for model in self._models.values()))

    def find(self, spec: Any) -> Version:
        """The AVAILABLE version that a ModelSpec names. Raises ServingError."""
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        number = self._number(spec)
        model = self._models.get(spec.name)
        available = model.available() if model else {}
        if number is not None:
            if number not in available:
                raise not_found(f"Servable not found for request: Specific({spec.name}, {number})")
            return available[number]
        if not available:
            raise not_found(f"Servable not found for request: Latest({spec.name})")
        return available[max(available)]

    def versions(self, spec: Any) -> tuple[Version, ...]:
        """The versions, in any state, that a GetModelStatusRequest's ModelSpec asks for. Raises ServingError."""
        model = self._models.get(spec.name)
        versions = model.versions() if model else ()
        if not spec.HasField("version"):
            if not versions:
                raise not_found(f"Could not find any versions of model {spec.name}")
            return versions
        for version in versions:
            if version.number == spec.version.value:
                return (version,)
        raise not_found(f"Could not find version {spec.version.value} of model {spec.name}")

    def _number(self, spec: Any) -> int | None:
        """The version that the spec asks for; None is the latest."""
        if spec.HasField("version"):
            return int(spec.version.value)
        if not spec.version_label:
            return None
        number = self._labels.get(spec.name, {}).get(spec.version_label)
        if number is None:
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        return number

    def _checked_labels(self, configs: Sequence[ModelConfig]) -> Labels:
        for config in configs:
            for label, number in config.labels.items():
                if not self._may_label(config.name, label, number):
                    raise ServingError(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        f"Request to assign label to version {number} of model {config.name}, "
                        "which is not currently available for inference",
                    )
        return {config.name: config.labels for config in configs}

    def _may_label(self, name: str, label: str, number: int) -> bool:
        model = self._models.get(name)
        if model and number in model.available():
            return True
        is_moved = self._labels.get(name, {}).get(label, number) != number  # a label in use never leads nowhere
        return self._allows_labels_for_unavailable and not is_moved

    async def _replace(self, configs: Sequence[ModelConfig], labels: Labels) -> None:
        async with self._replacing:
            self._labels = labels
            await self._retire(self._watching.keys() - {config.name for config in configs})
            for config in configs:
                await self._serve(config)

    async def _retire(self, names: Iterable[str]) -> None:
        tasks = [self._watching.pop(name) for name in names]
        for task in tasks:
            model = self._models[task.get_name()]
            task.cancel()
            await model.retire()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, config: ModelConfig) -> None:
        model = self._models.get(config.name)
        if model is None:
            model = self._models[config.name] = self._make_model(config, self._changed)
        model.config = config
        if config.name in self._watching:
            await model.poll()
        else:
            self._watching[config.name] = asyncio.create_task(model.watch(), name=config.name)

    async def _wait_until_available(self, names: Sequence[str], what: str) -> None:
        outcomes = await asyncio.gather(*(self._models[name].ready() for name in names))
        failed = [(name, version) for name, versions in zip(names, outcomes, strict=True) for version in versions]
        if failed:
            causes = "".join(f"{{{_described(name, version)}}}, " for name, version in failed)
            raise ServingError(
                grpc.StatusCode.UNKNOWN, f"{len(failed)} {what}(s) did not become available: {{{causes}}}"
            )


def _described(name: str, version: Version) -> str:
    cause = f" due to error: {version.error.code.name}: {version.error.message}" if version.error else ""
    return f"{{name: {name} version: {version.number}}}{cause}"
