"""A version's life, from START to END: loaded, with retries, served, and unloaded when it is no longer wanted.

A version unloads only when another one serves, or none is wanted, and when its last request has ended: no request
fails between.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import grpc

from serving.model_server.errors import ServingError
from serving.model_server.servable import Load, Servable

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

    poll_wait_s: float = 1.0  # 0: look once; below 0: never
    max_load_retries: int = 5
    load_retry_interval_s: float = 60.0


@dataclass(eq=False)
class Version:
    """One version's state. `unwanted` is set when the policy no longer chooses it."""

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


class Lifecycle:
    """Lives the lives of one model's versions, in the event loop; loading and unloading run in `executor`."""

    def __init__(
        self,
        model_name: str,
        *,
        load: Load,
        executor: Executor,
        options: LifecycleOptions,
        changed: asyncio.Condition,
        may_unload: Callable[[], bool],
    ) -> None:
        self._model_name = model_name
        self._load = load
        self._executor = executor
        self._options = options
        self._changed = changed
        self._may_unload = may_unload

    async def live(self, version: Version) -> None:
        """From START to END."""
        await self._try_to_load(version)
        if version.servable is None:
            return
        while not version.unwanted.is_set():
            await version.unwanted.wait()
            async with self._changed:  # perhaps it is wanted again before another one can take the requests
                await self._changed.wait_for(self._may_unload)
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
                *(self._model_name, version.number, version.directory, left, version.error),
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
            *(self._model_name, version.number, time.perf_counter() - started, version.directory),
        )
        await self._enter(version, State.AVAILABLE)

    async def _unload(self, version: Version) -> None:
        await self._enter(version, State.UNLOADING)
        while version.in_use:
            version.idle.clear()
            await version.idle.wait()
        servable, version.servable = version.servable, None
        if servable is not None:
            await asyncio.get_running_loop().run_in_executor(self._executor, servable.close)
        log.info("model unloaded model=%s version=%d", self._model_name, version.number)
        await self._enter(version, State.END)

    async def _enter(self, version: Version, state: State) -> None:
        version.state = state
        async with self._changed:
            self._changed.notify_all()


async def _happens(event: asyncio.Event, *, within_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
    return event.is_set()
