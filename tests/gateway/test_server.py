"""Health, reflection, start and drain."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from pydantic import ValidationError

from feature_repo.errors import LongtailError
from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.app import SERVICES
from serving.gateway.running.background import Chore
from serving.gateway.settings import GatewaySettings
from tests.gateway.conftest import Running, Start, until
from tests.gateway.fakes import World

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def health(running: Running, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(running.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


async def test_each_service_and_the_whole_are_healthy_once_the_port_is_bound(start: Start, world: World) -> None:
    running = await start(world)
    assert {await health(running, service) for service in ("", *SERVICES)} == {SERVING}
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await health(running, "no.such.Service")
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_our_services(start: Start, world: World) -> None:
    running = await start(world)

    def services() -> set[str]:
        with grpc.insecure_channel(f"127.0.0.1:{running.gateway.port}") as channel:
            return set(ProtoReflectionDescriptorDatabase(channel).get_services())

    assert set(SERVICES) <= await asyncio.to_thread(services)


async def test_a_port_in_use_is_told_and_not_shared(start: Start, world: World) -> None:
    running = await start(world)
    with pytest.raises(LongtailError, match=r"cannot listen on 127.0.0.1:\d+: is it in use"):
        await start(world, address=f"127.0.0.1:{running.gateway.port}")


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", ":50051", "127.0.0.1:", "127.0.0.1:http"])
def test_an_address_that_is_none_is_no_setting(address: str) -> None:
    with pytest.raises(ValidationError, match="HOST:PORT"):
        GatewaySettings(address=address)


async def test_an_address_of_another_machine_is_told(start: Start, world: World) -> None:
    with pytest.raises(LongtailError, match="cannot listen"):
        await start(world, address="192.0.2.1:0", allow_public_plaintext=True)


async def test_a_drain_lets_calls_in_flight_end_and_takes_no_new_ones(start: Start, world: World) -> None:
    world.features.delay_s = 0.3
    running = await start(world, drain_s=10)
    states: list[int] = []

    async def watch() -> None:
        stub = health_pb2_grpc.HealthStub(running.channel)
        async for answer in stub.Watch(health_pb2.HealthCheckRequest()):
            states.append(int(answer.status))

    watching = asyncio.create_task(watch())
    await until(lambda: states)
    call = asyncio.ensure_future(running.activation.RankItems(pb.RankItemsRequest(user_id="active"), timeout=5))
    await until(lambda: world.features.asked)
    drain = asyncio.create_task(running.gateway.drain())
    await until(lambda: NOT_SERVING in states)
    assert (await call).items
    watching.cancel()
    await drain
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.activation.RankItems(pb.RankItemsRequest(user_id="casual"), timeout=2)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_chore_that_fails_is_done_again(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    async def do() -> None:
        done.append(1)
        if len(done) == 1:
            raise RuntimeError("once")

    task = asyncio.create_task(Chore(name="sweep", every_s=0.001, do=do).run())
    await until(lambda: len(done) >= 3)
    task.cancel()
    assert "sweep failed" in caplog.text
