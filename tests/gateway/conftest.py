"""A gateway over real gRPC with fakes behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from feature_repo.decisions.campaigns import Campaigns
from longtail.activation.v1 import activation_pb2_grpc, feedback_pb2_grpc
from serving.gateway.access.gate import Gate
from serving.gateway.app import Gateway, build
from serving.gateway.campaigns.audience import ParquetAudience
from serving.gateway.decisions.explaining import Explain, nothing_kept
from serving.gateway.feedback.recording import Feedback
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.policy.book import PolicyBook
from serving.gateway.privacy import Erase
from serving.gateway.settings import GatewaySettings
from serving.gateway.wire.hiding import Hide, nothing_hidden
from tests.gateway.fakes import NOW_S, World


@dataclass(kw_only=True)
class Running:
    """A gateway that answers, and a client's stubs."""

    gateway: Gateway
    channel: grpc.aio.Channel
    activation: activation_pb2_grpc.ActivationServiceAsyncStub
    feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub
    telemetry: Telemetry

    def metric(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(name, labels) or 0.0


async def until(holds: Callable[[], Any]) -> None:
    """Waits for what must come to hold."""
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to hold")


Start = Callable[..., Awaitable[Running]]


def channel_to(port: int, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
    target = f"127.0.0.1:{port}"
    return grpc.aio.insecure_channel(target) if credentials is None else grpc.aio.secure_channel(target, credentials)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts gateways on free ports; drains them at the end."""
    async with AsyncExitStack() as stack:

        async def start(
            world: World,
            *,
            policies: PolicyBook | None = None,
            gate: Gate | None = None,
            telemetry: Telemetry | None = None,
            erase: Erase | None = None,
            explain: Explain = nothing_kept,
            campaigns: Campaigns | None = None,
            audience: ParquetAudience | None = None,
            hide: Hide = nothing_hidden,
            credentials: grpc.ChannelCredentials | None = None,
            clock: Callable[[], float] = lambda: NOW_S,
            **settings: Any,
        ) -> Running:
            telemetry = telemetry or Telemetry()
            feedback = Feedback(world.events, telemetry)
            stack.callback(feedback.close)
            gateway = build(
                GatewaySettings(**{"address": "127.0.0.1:0", "drain_s": 1.0, **settings}),
                ports=world.ports(),
                policies=policies or PolicyBook(),
                feedback=feedback,
                telemetry=telemetry,
                gate=gate,
                erase=erase,
                explain=explain,
                campaigns=campaigns,
                audience=audience,
                clock=clock,
                hide=hide,
            )
            await gateway.start()
            stack.push_async_callback(gateway.drain)
            channel = channel_to(gateway.port, credentials)
            stack.push_async_callback(channel.close)
            return Running(
                gateway=gateway,
                channel=channel,
                activation=activation_pb2_grpc.ActivationServiceStub(channel),
                feedback=feedback_pb2_grpc.FeedbackServiceStub(channel),
                telemetry=telemetry,
            )

        yield start


@pytest.fixture
def world() -> World:
    return World()
