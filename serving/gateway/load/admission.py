"""A server that takes a call only when there is room for it; those that wait stay in gRPC's core, which bounds them.

To take and refuse a call costs Python a quarter of a millisecond, about a fifth of what a ranking costs, so a gateway
that refused what it cannot do would lose most of its work at a few times its capacity. The core refuses at no cost to
the event loop once `backlog` calls of a method wait, but only sees calls that were not taken. grpc.aio has no public
way to leave them there: `_request_registered_call`, which asks the core for the next call of a method, is overridden.
Should a release of grpcio rename it, calls are taken as they come and tests/gateway/test_overload.py fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

Room = Callable[[], Awaitable[None]]


def admitting_server(
    *, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int]], rooms: Mapping[str, Room]
) -> grpc.aio.Server:
    """As grpc.aio.server; a call of a method in `rooms`, "/package.Service/Method", is taken once its room returns."""
    return cast(grpc.aio.Server, _Server(interceptors, options, rooms))


class _Server(_server.Server):
    def __init__(
        self,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        options: Sequence[tuple[str, int]],
        rooms: Mapping[str, Room],
    ) -> None:
        self._loop = cygrpc.get_working_loop()
        self._server = _Taking(self._loop, None, (), interceptors, tuple(options), None)
        self._server.rooms = {method.encode(): room for method, room in rooms.items()}


class _Taking(cygrpc.AioServer):  # type: ignore[misc]  # it has no types
    rooms: Mapping[bytes, Room]

    async def _request_registered_call(self, method: bytes) -> Any:
        if room := self.rooms.get(method):
            await room()
        return await super()._request_registered_call(method)


def backlog_options(most: int) -> tuple[tuple[str, int], ...]:
    """Of one method at most so many calls wait in the core; from half of it on some are refused, the more the fuller.

    The caller sees CANCELLED.
    """
    return (
        ("grpc.server.max_pending_requests", most // 2),
        ("grpc.server.max_pending_requests_hard_limit", most),
    )
