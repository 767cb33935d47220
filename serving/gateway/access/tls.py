"""The gateway's certificate, read again whenever its files change; and what may be served without one."""

from __future__ import annotations

import ipaddress
import logging
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from prometheus_client import Gauge

from feature_repo.errors import LongtailError
from serving.gateway.access.settings import TlsSettings
from serving.gateway.access.text_file import stamps

_log = logging.getLogger(__name__)


class Certificates:
    """`fetch` is called by gRPC on each handshake; files that cannot be used leave the last good ones in force."""

    def __init__(self, tls: TlsSettings, *, not_after: Gauge) -> None:
        """Raises LongtailError."""
        assert tls.cert_file is not None and tls.key_file is not None
        self._tls = tls
        self._not_after = not_after
        self._paths = [path for path in (tls.cert_file, tls.key_file, tls.client_ca_file) if path is not None]
        self._seen = stamps(self._paths)
        self._initial = self._read()

    @property
    def credentials(self) -> grpc.ServerCredentials:
        wants_client_certificate = self._tls.client_ca_file is not None
        return grpc.dynamic_ssl_server_credentials(
            self._initial,
            self.fetch,  # type: ignore[arg-type]  # the stubs forget that None means unchanged
            wants_client_certificate,
        )

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """None: nothing new."""
        seen = stamps(self._paths)
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            renewed = self._read()
        except LongtailError as error:
            _log.error("certificate not reloaded, the last good one stays in force: %s", error)
            return None
        _log.info("certificate reloaded from %s", self._tls.cert_file)
        return renewed

    def _read(self) -> grpc.ServerCertificateConfiguration:
        cert_file, key_file, client_ca_file = self._tls.cert_file, self._tls.key_file, self._tls.client_ca_file
        assert cert_file is not None and key_file is not None
        chain, key = _read_bytes(cert_file), _read_bytes(key_file)
        authorities = None if client_ca_file is None else _read_bytes(client_ca_file)
        not_after = _check(chain, key, cert_file=cert_file, key_file=key_file)
        if authorities is not None:
            _certificates(authorities, client_ca_file)
        self._not_after.set(not_after.timestamp())
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=authorities)


def check_exposure(setting: str, address: str, *, why: str, allows_plaintext: bool) -> None:
    """Raises LongtailError for an address that others can reach in the clear, unless that is wanted."""
    if allows_plaintext or is_loopback(address):
        return
    raise LongtailError(
        f"{setting} {address} can be reached from other machines, and {why} an address on 127.0.0.1, or, inside a "
        "private network, gateway.allow_public_plaintext = true"
    )


def is_loopback(address: str) -> bool:
    """Of HOST:PORT; a name counts as public unless it is localhost."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check(chain: bytes, key: bytes, *, cert_file: Path, key_file: Path) -> datetime:
    """When the certificate ends."""
    leaf = _certificates(chain, cert_file)[0]
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise LongtailError(f"{key_file} is no PEM private key without a password") from error
    if private.public_key() != leaf.public_key():
        raise LongtailError(f"{key_file} is not the key of the certificate in {cert_file}; give the pair")
    if leaf.not_valid_after_utc <= datetime.now(UTC):
        raise LongtailError(f"the certificate in {cert_file} expired at {leaf.not_valid_after_utc}; renew it")
    return leaf.not_valid_after_utc


def _certificates(pem: bytes, path: Path | None) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise LongtailError(f"{path} has no PEM certificate") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LongtailError(f"{path} cannot be read: {error.strerror}; see gateway.tls in docs/settings.md") from error
