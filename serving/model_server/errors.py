"""What a caller may be told: one of gRPC's codes and a text. The wire maps it in one place, `services` or `rest`."""

from __future__ import annotations

import grpc

from feature_repo.errors import LongtailError


class ServingError(LongtailError):
    """A request or a load that failed in an expected way."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class StartError(LongtailError):
    """The server cannot start: a port in use, a first version that does not load."""


def invalid_argument(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


def status_code(number: int) -> grpc.StatusCode:
    """The code of that number; UNKNOWN for a number that gRPC does not have."""
    return next((code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN)
