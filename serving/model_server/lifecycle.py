"""A served model's versions, from START to END: what is found on disk is loaded, served, and unloaded.

A new version is AVAILABLE before the old one unloads, and the old one unloads only when its last request has
ended: no request fails between. A version that does not load ends END with its error; the old one keeps serving.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import grpc

from serving.model_server.errors import ServingError
from serving.model_server.servable import Load, Servable
from serving.model_server.versions import Policy, find_versions, latest

log = logging.getLogger(__name__)


class State(IntEnum):
    """`ModelVersionStatus.State` of the wire."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, kw_only=True)
class LifecycleOptions:
    """When to look for versions and how often to try to load one."""

    poll_wait_s: float = 1.0  # 0: look once
    max_load_retries: int = 5
    load_retry_interval_s: float = 60.0


@dataclass(eq=False)
class Version:
    """One version's state. `wanted` turns False when the policy no longer chooses it."""

    number: int
    directory: Path
    state: State = State.START
    error: ServingError | None = None
    servable: Servable | None = None
    in_use: int = 0
    unwanted: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.contextmanager
    def lease(self) -> Iterator[Servable]:
        """The servable of an AVAILABLE version, kept from unloading until the block ends."""
        if self.servable is None:
            raise AssertionError(f"version {self.number} is {self.state.name}, not available")
        self.in_use += 1
        try:
            yield self.servable
        finally:
            self.in_use -= 1
            if self.in_use == 0:
                self.idle.set()


class Model:
    """The versions of one model. All methods belong to the event loop; loading and unloading run in `executor`."""

    def __init__(
        self,
        name: str,
        base_path: Path,
        *,
        load: Load,
        executor: Executor,
        options: LifecycleOptions,
        policy: Policy = latest,
    ) -> None:
        self.name = name
        self.base_path = base_path
        self.labels: Mapping[str, int] = {}
        self._load = load
        self._executor = executor
        self._options = options
        self._policy = policy
        self._versions: dict[int, Version] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()

    def versions(self) -> tuple[Version, ...]:
        """All versions ever seen, the greatest last."""
        return tuple(self._versions[number] for number in sorted(self._versions))

    def available(self) -> dict[int, Version]:
        """Versions that requests may use."""
        return {version.number: version for version in self.versions() if version.state is State.AVAILABLE}

    async def watch(self) -> None:
        """Looks at the base path again and again, until cancelled."""
        while True:
            await self.poll()
            if self._options.poll_wait_s <= 0:
                return
            await asyncio.sleep(self._options.poll_wait_s)

    async def poll(self) -> None:
        """Looks once: starts to load what the policy wants, and to unload what it no longer wants."""
        try:
            found = await asyncio.to_thread(find_versions, self.base_path)
        except OSError as error:
            log.error("Could not find base path %s for servable %s: %s", self.base_path, self.name, _mend(error))
            return
        if not found:
            log.warning(
                "No versions of servable %s found under base path %s. Did you forget to name your leaf directory as a "
                "number (eg. '/1/')? `longtail publish` puts a version there; looking again every %g s.",
                self.name,
                self.base_path,
                self._options.poll_wait_s,
            )
        await self._want({number: found[number] for number in self._policy(found)})

    async def ready(self) -> None:
        """Waits for the first AVAILABLE version. Raises ServingError when the versions wanted do not load."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.available() or self._failed())
        if not self.available() and (error := self._failed()):
            raise error

    async def tell_availability(self, tell: Callable[[bool], Awaitable[None]]) -> None:
        """Tells now, and after every change, whether a version is AVAILABLE; until cancelled."""
        async with self._changed:
            while True:
                await tell(bool(self.available()))
                await self._changed.wait()

    async def close(self) -> None:
        """Unloads everything; call it when no request can come any more."""
        await self._want({})
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _failed(self) -> ServingError | None:
        wanted = [version for version in self.versions() if not version.unwanted.is_set()]
        failed = [version.error for version in wanted if version.state is State.END and version.error]
        return failed[0] if failed and len(failed) == len(wanted) else None

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
        await self._notify()

    def _begin(self, version: Version) -> None:
        self._versions[version.number] = version
        task = asyncio.create_task(self._live(version), name=f"{self.name}/{version.number}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, version: Version) -> None:
        await self._try_to_load(version)
        if version.servable is None:
            return
        while not version.unwanted.is_set():
            await version.unwanted.wait()
            await self._successor(version)
        await self._unload(version)

    async def _try_to_load(self, version: Version) -> None:
        retries = self._options.max_load_retries
        for attempt in range(retries + 1):
            await self._load_once(version)
            if version.servable is not None:
                return
            left = retries - attempt
            log.error(
                "load failed model=%s version=%d directory=%s retries_left=%d: %s",
                *(self.name, version.number, version.directory, left, version.error),
            )
            if left and await _happens(version.unwanted, within_s=self._options.load_retry_interval_s):
                break
        await self._enter(version, State.END)

    async def _load_once(self, version: Version) -> None:
        await self._enter(version, State.LOADING)
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        try:
            version.servable = await loop.run_in_executor(self._executor, self._load, version.directory)
        except ServingError as error:
            version.error = error
            return
        except Exception as error:
            log.exception("unexpected failure while loading %s", version.directory)
            version.error = ServingError(grpc.StatusCode.UNKNOWN, f"Loading {version.directory}: {error!r}")
            return
        version.error = None
        log.info(
            "model available model=%s version=%d load_s=%.2f directory=%s",
            *(self.name, version.number, time.perf_counter() - started, version.directory),
        )
        await self._enter(version, State.AVAILABLE)

    async def _successor(self, version: Version) -> None:
        """Waits until a wanted version, perhaps this one again, can take the requests, or none is wanted."""

        def may_go() -> bool:
            wanted = [other for other in self.versions() if not other.unwanted.is_set()]
            return not wanted or any(other.state is State.AVAILABLE for other in wanted)

        async with self._changed:
            await self._changed.wait_for(may_go)

    async def _unload(self, version: Version) -> None:
        await self._enter(version, State.UNLOADING)
        while version.in_use:
            version.idle.clear()
            await version.idle.wait()
        servable, version.servable = version.servable, None
        if servable is not None:
            await asyncio.get_running_loop().run_in_executor(self._executor, servable.close)
        log.info("model unloaded model=%s version=%d", self.name, version.number)
        await self._enter(version, State.END)

    async def _enter(self, version: Version, state: State) -> None:
        version.state = state
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _happens(event: asyncio.Event, *, within_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
    return event.is_set()


def _mend(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "it does not exist; `longtail publish` makes it, or give --model_base_path"
    if isinstance(error, NotADirectoryError):
        return "it is a file; give the directory that holds the numbered version directories"
    return str(error)
