"""Work that goes on beside the requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Chore:
    """Something done again and again. A failure is logged, and does not end it."""

    name: str
    every_s: float
    do: Callable[[], Awaitable[None]]

    async def run(self) -> None:
        while True:
            try:
                await self.do()
            except Exception:
                _log.exception("%s failed; next try in %g s", self.name, self.every_s)
            await asyncio.sleep(self.every_s)
