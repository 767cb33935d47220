"""Settings of the console, section `[console]`; apart from what uses them, which imports the web framework."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _host_and_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError("give HOST:PORT, the port from 0 (any free one) to 65535")
    return address


class ConsoleSettings(BaseModel):
    """Section `[console]`: the page of `longtail console`. How it reaches the gateway is section `[client]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: Annotated[str, AfterValidator(_host_and_port)] = Field(
        "127.0.0.1:8080", description="Where the console listens."
    )
    compare_with: str = Field(
        "", description="A second gateway, HOST:PORT, with another policy or model version, to compare with."
    )
    hosts: tuple[str, ...] = Field(
        ("127.0.0.1", "localhost"),
        description="Names under which browsers may ask for it; a request for another is refused.",
    )
    cert_file: Path | None = Field(None, description="The console's certificate and its chain, PEM. Turns TLS on.")
    key_file: Path | None = Field(None, description="Its private key, PEM.")
    allow_public_plaintext: bool = Field(
        False, description="Listen beyond this machine without TLS: for a private network that you trust."
    )
    refresh_s: float = Field(
        30,
        gt=0,
        description="How often an open health page asks for a ranking of nobody, which tells what is degraded.",
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together; give both or neither")
        return self
