"""A server that takes a call only when there is room for it; those that wait stay in gRPC's core, which bounds them.

To take and refuse a call costs Python a quarter of a millisecond, about a fifth of what a ranking costs, so a gateway
that refused what it cannot do would lose most of its work at a few times its capacity. The core refuses at no cost to
the event loop once `backlog` calls of a method wait, but only sees calls that were not taken. grpc.aio has no public
way to leave them there: `_request_registered_call`, which asks the core for the next call of a method, is overridden.
Should a release of grpcio rename it, calls are taken as they come and tests/gateway/test_overload.py fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

from serving.gateway.load.permits import Permits

Rooms = Mapping[str, Permits]  # by "/package.Service/Method"
Handler = Any  # grpc's stubs have generic handlers, grpc has not


def admitting_server(
    *, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int]], rooms: Rooms
) -> grpc.aio.Server:
    """As grpc.aio.server; a call of a method in `rooms` is taken once there is room for it."""
    return cast(grpc.aio.Server, _Server((_Seating(rooms), *interceptors), options, rooms))


class _Server(_server.Server):
    def __init__(
        self,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        options: Sequence[tuple[str, int]],
        rooms: Rooms,
    ) -> None:
        self._loop = cygrpc.get_working_loop()
        self._server = _Taking(self._loop, None, (), interceptors, tuple(options), None)
        self._server.rooms = {method.encode(): permits for method, permits in rooms.items()}


class _Taking(cygrpc.AioServer):  # type: ignore[misc]  # it has no types
    rooms: Mapping[bytes, Permits]

    async def _request_registered_call(self, method: bytes) -> Any:
        permits = self.rooms.get(method)
        if permits is None:
            return await super()._request_registered_call(method)
        await permits.room()
        try:
            return await super()._request_registered_call(method)
        except BaseException:
            permits.give_up_room()
            raise


class _Seating(grpc.aio.ServerInterceptor):
    """A call that was taken sits in the room that was kept for it until it asks for its permit, or ends without."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        if (permits := self._rooms.get(handler_call_details.method)) is not None:
            seat = permits.seat()
            task = asyncio.current_task()
            assert task is not None  # gRPC answers each call in a task of its own
            task.add_done_callback(lambda _: seat.leave())
        return await continuation(handler_call_details)


def backlog_options(most: int) -> tuple[tuple[str, int], ...]:
    """Of one method at most so many calls wait in the core; from half of it on some are refused, the more the fuller.

    The caller sees CANCELLED.
    """
    return (
        ("grpc.server.max_pending_requests", most // 2),
        ("grpc.server.max_pending_requests_hard_limit", most),
    )
