"""What the pages share: the gateways they may ask, with the visitor's own token, and the folders of reports."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nicegui import app

from serving.client import Client
from serving.client_credentials import ClientCredentials

Answer = TypeVar("Answer")
SURFACE = "console"
SIGN_IN = "type yours at the top of the page"
NOBODY = "longtail-console"  # asked for when only the permission to ask matters


@dataclass(frozen=True, kw_only=True)
class Report:
    """One page that a command wrote."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Desk:
    """`credentials` say whom to trust and, with mTLS, who the console is; the token is always the visitor's."""

    gateway: str
    metrics: str  # its metrics address; empty: not known
    compare_with: str
    credentials: ClientCredentials
    report_folders: tuple[Path, ...]
    decisions: Path
    refresh_s: float

    async def ask(self, question: Callable[[Client], Answer], *, address: str = "") -> Answer:
        """Asks `address`, or the gateway. Raises ClientError when it does not answer or refuses."""
        credentials = dataclasses.replace(self.credentials, token=token())
        return await asyncio.to_thread(_ask, question, address or self.gateway, credentials)

    async def reports(self) -> list[Report]:
        """Those there are, the newest first. Raises ClientError for a visitor whom the gateway refuses."""
        await self.ask(lambda client: client.state(NOBODY))
        found = [path for folder in self.report_folders for path in folder.glob("*.html")]
        newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
        return [Report(name=f"{path.parent.name}/{path.stem}", path=path) for path in newest]


def token() -> str:
    """The visitor's, kept in memory for this tab of the browser alone."""
    given: str = app.storage.tab.get("token", "")
    return given


def _ask(question: Callable[[Client], Answer], address: str, credentials: ClientCredentials) -> Answer:
    with Client(address, credentials=credentials, surface=SURFACE, sign_in=SIGN_IN) as client:
        return question(client)
