"""How client commands reach the gateway: `@connected` adds the options and hands the command a Client."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from cli.settings import Settings

if TYPE_CHECKING:
    from serving.client import Client
    from serving.client_settings import ClientSettings

P = ParamSpec("P")
Address = Annotated[str, typer.Option(help="The gateway, HOST:PORT. Default: gateway.address of the settings.")]
Ca = Annotated[Path | None, typer.Option("--ca", help="Speak TLS and trust these authorities (PEM).")]
Cert = Annotated[Path | None, typer.Option("--cert", help="Your certificate, where the gateway wants one (PEM).")]
Key = Annotated[Path | None, typer.Option("--key", help="Its private key (PEM).")]
TokenFile = Annotated[Path | None, typer.Option("--token-file", help="A file with your token.")]
OPTIONS: dict[str, tuple[Any, Any]] = {
    "address": (Address, ""),
    "ca": (Ca, None),
    "cert": (Cert, None),
    "key": (Key, None),
    "token_file": (TokenFile, None),
}


def connected(command: Callable[Concatenate[Client, P], None]) -> Callable[..., None]:
    """`command` takes a Client first; the command line sees the options of a connection after its own."""

    @functools.wraps(command)
    def run(context: typer.Context, *, address: str, **given: Any) -> None:
        from serving.client import Client
        from serving.client_credentials import ClientCredentials

        files = {name: given.pop(name) for name in OPTIONS if name in given}
        settings: Settings = context.obj
        credentials = ClientCredentials.read(client_settings(settings, **files))
        ours = settings.gateway
        metrics = "" if address else ours.metrics_address  # those of another gateway are not known
        with Client(address or ours.address, credentials=credentials, metrics_address=metrics) as client:
            command(client, **given)  # type: ignore[call-arg]

    del command.__annotations__[next(iter(inspect.signature(command).parameters))]  # Client is imported late
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    named = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in OPTIONS.items()
    ]
    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [first, *own, *named]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def client_settings(
    settings: Settings, *, ca: Path | None, cert: Path | None, key: Path | None, token_file: Path | None
) -> ClientSettings:
    """What the options name, else what the settings do."""
    given = {"ca_file": ca, "cert_file": cert, "key_file": key, "token_file": token_file}
    return settings.client.model_copy(update={name: path for name, path in given.items() if path is not None})
