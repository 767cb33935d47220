"""Settings of a client, section `[client]`; apart from what uses them, which imports grpc."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class ClientSettings(BaseModel):
    """Section `[client]`: what rank, record, status and the load test use to reach the gateway."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tls: bool = Field(False, description="Speak TLS and trust the system's authorities; `ca_file` turns it on too.")
    ca_file: Path | None = Field(None, description="Speak TLS and trust these authorities, PEM.")
    cert_file: Path | None = Field(None, description="The client's certificate for mTLS, PEM.")
    key_file: Path | None = Field(None, description="Its private key, PEM.")
    token_file: Path | None = Field(None, description="A file with the bearer token.")
    token: SecretStr | None = Field(None, description="The token itself, from the environment; never put it in a file.")
