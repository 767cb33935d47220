"""A served model: which of its versions are wanted, as its base path and its configuration change.

A version that does not load ends END with its error; the others keep serving.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path

from serving.model_server.config import ModelConfig
from serving.model_server.lifecycle import Lifecycle, LifecycleOptions, State, Version
from serving.model_server.servable import Load
from serving.model_server.versions import find_versions

log = logging.getLogger(__name__)


class Model:
    """The versions of one model. All methods belong to the event loop."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        load: Load,
        executor: Executor,
        options: LifecycleOptions,
        changed: asyncio.Condition | None = None,
    ) -> None:
        self.config = config
        self._options = options
        self._changed = changed or asyncio.Condition()
        self._versions: dict[int, Version] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lifecycle = Lifecycle(
            config.name,
            load=load,
            executor=executor,
            options=options,
            changed=self._changed,
            may_unload=self._may_unload,
        )

    @property
    def name(self) -> str:
        return self.config.name

    def versions(self) -> tuple[Version, ...]:
        """All versions ever seen, the greatest first."""
        return tuple(self._versions[number] for number in sorted(self._versions, reverse=True))

    def available(self) -> dict[int, Version]:
        """Versions that requests may use."""
        return {number: version for number, version in self._versions.items() if version.state is State.AVAILABLE}

    async def watch(self) -> None:
        """Looks at the base path again and again, until cancelled."""
        while self._options.poll_wait_s >= 0:
            await self.poll()
            if self._options.poll_wait_s == 0:
                return
            await asyncio.sleep(self._options.poll_wait_s)

    async def poll(self) -> None:
        """Looks once: starts to load what the policy wants, and to unload what it no longer wants."""
        config = self.config
        try:
            found = await asyncio.to_thread(find_versions, config.base_path)
        except OSError as error:
            log.error("Could not find base path %s for servable %s: %s", config.base_path, self.name, _mend(error))
            return
        if config is not self.config:  # reconfigured meanwhile: whoever did that polls again
            return
        wanted = {number: found[number] for number in config.policy(found)}
        if not wanted:
            log.warning(
                "No versions of servable %s found under base path %s. Did you forget to name your leaf directory as a "
                "number (eg. '/1/')? `longtail publish` puts a version there; looking again every %g s.",
                *(self.name, config.base_path, self._options.poll_wait_s),
            )
        await self._want(wanted)

    async def ready(self) -> list[Version]:
        """Waits for the first AVAILABLE version and returns [], or the wanted versions, all of which failed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.available() or self._failed())
        return [] if self.available() else self._failed()

    async def retire(self) -> None:
        """Starts to unload everything."""
        await self._want({})

    async def close(self) -> None:
        """Unloads everything; call it when no request can come any more."""
        await self.retire()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _wanted(self) -> list[Version]:
        return [version for version in self.versions() if not version.unwanted.is_set()]

    def _failed(self) -> list[Version]:
        wanted = self._wanted()
        failed = [version for version in wanted if version.state is State.END and version.error]
        return failed if len(failed) == len(wanted) else []

    def _may_unload(self) -> bool:
        wanted = self._wanted()
        return not wanted or any(version.state is State.AVAILABLE for version in wanted)

    async def _want(self, wanted: Mapping[int, Path]) -> None:
        for number, version in self._versions.items():
            if number not in wanted:
                version.unwanted.set()
            elif version.state not in (State.UNLOADING, State.END):
                version.unwanted.clear()
        for number, directory in wanted.items():
            known = self._versions.get(number)
            if known is None or (known.state is State.END and known.unwanted.is_set()):
                self._begin(Version(number, directory))
        async with self._changed:
            self._changed.notify_all()

    def _begin(self, version: Version) -> None:
        self._versions[version.number] = version
        task = asyncio.create_task(self._lifecycle.live(version), name=f"{self.name}/{version.number}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _mend(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "it does not exist; `longtail publish` makes it, or give --model_base_path"
    if isinstance(error, NotADirectoryError):
        return "it is a file; give the directory that holds the numbered version directories"
    return str(error)
