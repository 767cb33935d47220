"""Command: `longtail console`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from cli.connection import client_settings

if TYPE_CHECKING:
    from cli.settings import Settings


def register(app: typer.Typer) -> None:
    """Adds this command to `longtail`."""
    app.command()(console)


def console(  # noqa: PLR0917  the options of a command
    context: typer.Context,
    address: Annotated[str, typer.Option(help="The gateway, HOST:PORT. Default: gateway.address.")] = "",
    listen: Annotated[str, typer.Option(help="Where the page is served, HOST:PORT. Default: console.address.")] = "",
    compare_with: Annotated[str, typer.Option(help="A second gateway, HOST:PORT, to compare rankings with.")] = "",
    ca: Annotated[Path | None, typer.Option(help="Speak TLS to the gateway and trust these authorities (PEM).")] = None,
    metrics: Annotated[
        str,
        typer.Option(help="Its metrics, HOST:PORT. Default: gateway.metrics_address, where no --address is given."),
    ] = "",
) -> None:
    """Serve a web page that shows users, rankings and their reasons, health and reports. It changes nothing.

    Where the gateway wants a token, each visitor gives their own: the page shows what that token may see.

    Example: `longtail console`, then open http://127.0.0.1:8080; or `longtail console --compare-with 127.0.0.1:50052`.
    """
    from feature_repo.errors import LongtailError

    try:
        from console.app import serve
    except ModuleNotFoundError as error:
        raise LongtailError(f"the console needs {error.name}: pip install 'longtail[console]'") from error
    from serving.client_credentials import ClientCredentials

    settings: Settings = context.obj
    given = {name: value for name, value in (("address", listen), ("compare_with", compare_with)) if value}
    try:
        chosen = type(settings.console).model_validate({**settings.console.model_dump(), **given})
    except ValidationError as error:
        raise typer.BadParameter(f"--listen {listen!r}: {error.errors()[0]['msg']}") from error
    scheme = "http" if chosen.cert_file is None else "https"
    host = chosen.address.rpartition(":")[0]
    serve(
        chosen,
        gateway=address or settings.gateway.address,
        metrics=metrics or ("" if address else settings.gateway.metrics_address),
        credentials=ClientCredentials.read(client_settings(settings, ca=ca, cert=None, key=None, token_file=None)),
        report_folders=(settings.state.reports, settings.state.training),
        decisions=settings.state.decisions,
        on_ready=lambda port: typer.echo(f"console ready at {scheme}://{host}:{port}"),
    )
