"""The web application: pages on their paths, asked for under known names only, served until it is told to stop."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from nicegui import ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

from console.desk import Desk
from console.errors import ConsoleError
from console.pages import compare, decision, decisions, health, reports
from console.pages import user as users
from console.settings import ConsoleSettings
from serving.client_credentials import ClientCredentials

FAVICON = "🌱"


def serve(
    settings: ConsoleSettings,
    *,
    gateway: str,
    metrics: str,
    credentials: ClientCredentials,
    report_folders: tuple[Path, ...],
    decisions: Path,
    on_ready: Callable[[int], None],
) -> None:
    """Serves until SIGTERM or Ctrl-C; `on_ready` is told the port. Raises ConsoleError when it cannot start."""
    _check_exposure(settings)
    desk = Desk(
        gateway=gateway,
        metrics=metrics,
        compare_with=settings.compare_with,
        credentials=credentials,
        report_folders=report_folders,
        decisions=decisions,
        refresh_s=settings.refresh_s,
    )
    host, _, port = settings.address.rpartition(":")
    config = uvicorn.Config(
        application(desk, hosts=settings.hosts),
        host=host.strip("[]"),
        port=int(port),
        log_level="warning",
        ssl_certfile=settings.cert_file,
        ssl_keyfile=settings.key_file,
    )
    try:
        bound = config.bind_socket()
    except SystemExit as error:
        raise ConsoleError(f"console.address {settings.address} is taken or cannot be bound") from error
    _Server(config, on_ready=on_ready).run(sockets=[bound])


class _Server(uvicorn.Server):
    """Says when it takes calls."""

    def __init__(self, config: uvicorn.Config, *, on_ready: Callable[[int], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets and not self.should_exit:
            self._on_ready(sockets[0].getsockname()[1])


def application(desk: Desk, *, hosts: tuple[str, ...]) -> FastAPI:
    """A page of another site cannot ask for these: it would come under that site's name."""
    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    _register(desk)
    ui.run_with(app, title="longtail", favicon=FAVICON, show_welcome_message=False)
    return app


def _register(desk: Desk) -> None:
    """The argument `user` of a page is the query of its address: /?user=42."""

    @ui.page("/")
    async def user_page(user: str = "") -> None:
        await users.show(desk, user)

    @ui.page("/compare")
    async def compare_page(user: str = "") -> None:
        await compare.show(desk, user)

    @ui.page("/decisions")
    async def decisions_page() -> None:
        await decisions.show(desk)

    @ui.page("/decision")
    async def decision_page(of: str = "") -> None:
        await decision.show(desk, of)

    @ui.page("/health")
    async def health_page() -> None:
        await health.show(desk)

    @ui.page("/reports")
    async def reports_page() -> None:
        await reports.show(desk)


def _check_exposure(settings: ConsoleSettings) -> None:
    host = settings.address.rpartition(":")[0].strip("[]")
    if settings.cert_file is not None or settings.allow_public_plaintext or _is_loopback(host):
        return
    raise ConsoleError(
        f"console.address {settings.address} can be reached from other machines, and would be served without TLS; set "
        "console.cert_file and key_file, or an address on 127.0.0.1, or, inside a private network, "
        "console.allow_public_plaintext = true"
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
