"""Settings of TLS, authorization and quotas, within section `[gateway]`."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator


class TlsSettings(BaseModel):
    """PEM files. They are looked at on each handshake: a renewed certificate needs no restart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cert_file: Path | None = Field(None, description="The gateway's certificate and its chain, PEM. Turns TLS on.")
    key_file: Path | None = Field(None, description="Its private key, PEM.")
    client_ca_file: Path | None = Field(
        None, description="Take only callers with a certificate of these authorities (mTLS), PEM."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together; give both or neither")
        if self.client_ca_file is not None and self.cert_file is None:
            raise ValueError("client_ca_file needs cert_file and key_file; client certificates are part of TLS")
        return self

    @property
    def is_on(self) -> bool:
        return self.cert_file is not None


class AuthorizationSettings(BaseModel):
    """Bearer tokens in the metadata `authorization`. Naming any of the files, or the secret, turns it on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens_file: Path | None = Field(None, description="Hashed tokens, TOML; `longtail token` makes them.")
    jwks_file: Path | None = Field(None, description="Public keys that sign JWTs, JSON Web Key Set.")
    jwt_secret_file: Path | None = Field(None, description="The secret that signs JWTs with HS256, 32 bytes or more.")
    jwt_secret: SecretStr | None = Field(None, description="The same from the environment; never put it in a file.")
    jwt_issuer: str = Field("", description="The `iss` a JWT must have; empty takes any.")
    jwt_audience: str = Field("", description="The `aud` a JWT must have; empty takes only JWTs without one.")
    jwt_leeway_s: float = Field(10, ge=0, description="How far the clocks of issuer and gateway may differ.")
    check_s: float = Field(2, gt=0, description="How often the files are looked at; SIGHUP reads them at once.")

    @model_validator(mode="after")
    def _has_one_key_source(self) -> Self:
        if sum(one is not None for one in (self.jwks_file, self.jwt_secret_file, self.jwt_secret)) > 1:
            raise ValueError("give one of jwks_file, jwt_secret_file and jwt_secret")
        return self

    @property
    def takes_jwts(self) -> bool:
        return any(one is not None for one in (self.jwks_file, self.jwt_secret_file, self.jwt_secret))

    @property
    def is_on(self) -> bool:
        return self.tokens_file is not None or self.takes_jwts


class QuotaSettings(BaseModel):
    """How often one caller may ask; callers are told apart by token, certificate or address, in this order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_s: float = Field(0, ge=0, description="Calls per second of one caller, in the long run; 0: no limit.")
    burst: int = Field(100, ge=1, description="Calls at once after a quiet time.")
