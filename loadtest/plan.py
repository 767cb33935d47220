"""A load test, decided: what the process that makes the load is told, and nothing else."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from loadtest.errors import LoadTestError
from loadtest.profiles import Profile

TOKEN_VARIABLE: Final = "LOADTEST_TOKEN"  # noqa: S105  how the process that makes the load is given it


class Line(BaseModel):
    """How the gateway is reached. A token is not part of it: a plan is written to disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


class Plan(BaseModel):
    """Where to send what, and whose ids to use; no file of ids means made-up ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile_name: str
    profile: Profile
    address: str
    seed: int
    user_ids_file: Path | None = None
    item_ids_file: Path | None = None
    line: Line = Line()


def check_address(address: str, *, allow_remote: bool) -> str:
    """The address, if load may be sent there: this machine only, unless remote ones are allowed."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise LoadTestError(f"address {address!r} is not HOST:PORT; give one like 127.0.0.1:50051")
    if not allow_remote and not _is_loopback(host.strip("[]")):
        raise LoadTestError(
            f"{address} is not on this machine; load is sent to loopback addresses only. "
            "Give --allow-remote if that server is yours to load"
        )
    return address


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
