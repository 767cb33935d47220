"""Listening sockets, with an error that says which flag to change."""

from __future__ import annotations

import socket

from serving.model_server.errors import StartError


def listening_socket(host: str, port: int, flag: str) -> socket.socket:
    """A bound TCP socket; port 0 is any free one. Raises StartError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise cannot_listen(host, port, flag, error) from error


def cannot_listen(host: str, port: int, flag: str, cause: Exception) -> StartError:
    """The error for an address that cannot be had."""
    return StartError(
        f"cannot listen on {host}:{port} ({cause}). Another server may have the port: stop it, or choose "
        f"another with {flag}=N"
    )
