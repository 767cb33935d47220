"""How a client proves who it is and whom it trusts: files of PEM, a file or a variable with a token."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import grpc

from feature_repo.errors import LongtailError
from serving.client_settings import ClientSettings


@dataclass(frozen=True, kw_only=True)
class ClientCredentials:
    """What was read from the files."""

    is_encrypted: bool = False
    authorities: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    token: str = ""

    @classmethod
    def read(cls, settings: ClientSettings) -> Self:
        """Raises LongtailError for a file that cannot be read, and for half a pair."""
        if (settings.cert_file is None) != (settings.key_file is None):
            raise LongtailError("a client certificate and its key go together; give --cert and --key, or neither")
        token = "" if settings.token is None else settings.token.get_secret_value()
        if settings.token_file is not None:
            token = _read(settings.token_file).decode(errors="replace")
        return cls(
            is_encrypted=settings.tls or settings.ca_file is not None or settings.cert_file is not None,
            authorities=_read(settings.ca_file) if settings.ca_file else None,
            certificate=_read(settings.cert_file) if settings.cert_file else None,
            key=_read(settings.key_file) if settings.key_file else None,
            token=token.strip(),
        )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def channel(self, address: str) -> grpc.Channel:
        """Raises LongtailError rather than send a token in the clear to another machine."""
        if self.is_encrypted:
            return grpc.secure_channel(
                address, grpc.ssl_channel_credentials(self.authorities, self.key, self.certificate)
            )
        if self.token and not _is_loopback(address):
            raise LongtailError(f"a token would go to {address} in the clear; give --ca, or set client.tls")
        return grpc.insecure_channel(address)


PLAINTEXT: Final = ClientCredentials()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LongtailError(f"{path} cannot be read: {error.strerror}") from error


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
