"""The gateway put together: `build` from ports, which tests fill with fakes; `serve` from settings."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from feature_repo.errors import LongtailError
from longtail.activation.v1 import activation_pb2, activation_pb2_grpc, feedback_pb2, feedback_pb2_grpc
from serving.gateway.background import Chore
from serving.gateway.boundary import Boundary
from serving.gateway.feedback import Feedback
from serving.gateway.permits import Permits
from serving.gateway.policy_book import PolicyBook
from serving.gateway.ports import Ports
from serving.gateway.servicer import ActivationServicer, FeedbackServicer
from serving.gateway.settings import GatewaySettings
from serving.gateway.telemetry import Telemetry

SERVICES: Final = (
    activation_pb2.DESCRIPTOR.services_by_name["ActivationService"].full_name,
    feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"].full_name,
)
SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Gateway:
    """A server with what lives as long as it does. `start` binds and answers, `drain` ends it."""

    server: grpc.aio.Server
    health: Any
    settings: GatewaySettings
    chores: Sequence[Chore]
    closers: Sequence[Callable[[], Awaitable[None]]]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    port: int = 0

    async def start(self) -> None:
        """Raises LongtailError when the address cannot be had."""
        try:
            self.port = self.server.add_insecure_port(self.settings.address)
        except (RuntimeError, ValueError) as error:
            raise LongtailError(
                f"cannot listen on {self.settings.address}: is it in use? Set gateway.address to a free one ({error})"
            ) from error
        await self.server.start()
        self.tasks = [asyncio.create_task(chore.run(), name=chore.name) for chore in self.chores]
        await self._report(SERVING)

    async def drain(self) -> None:
        """Takes no new calls, lets those in flight end, then closes what it used."""
        await self._report(NOT_SERVING)
        await self.server.stop(self.settings.drain_s)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for close in self.closers:
            await close()

    async def _report(self, status: Any) -> None:
        for service in (health.OVERALL_HEALTH, *SERVICES):
            await self.health.set(service, status)


def build(
    settings: GatewaySettings,
    *,
    ports: Ports,
    policies: PolicyBook,
    feedback: Feedback,
    telemetry: Telemetry,
    chores: Sequence[Chore] = (),
    closers: Sequence[Callable[[], Awaitable[None]]] = (),
    clock: Callable[[], float] = time.time,
) -> Gateway:
    """Nothing waits and nothing is bound here."""
    retry_after_s = settings.retry_after_ms / 1000
    permits = Permits(
        settings.permits,
        low_permits=settings.batch_permits,
        retry_after_s=retry_after_s,
        taken=telemetry.permits_taken.labels("activation"),
    )
    feedback_permits = Permits(
        settings.feedback_permits, retry_after_s=retry_after_s, taken=telemetry.permits_taken.labels("feedback")
    )
    server = grpc.aio.server(
        interceptors=[Boundary(telemetry)], options=(("grpc.so_reuseport", int(settings.share_port)),)
    )
    activation_pb2_grpc.add_ActivationServiceServicer_to_server(
        ActivationServicer(
            ports=ports, policies=policies, permits=permits, settings=settings, telemetry=telemetry, clock=clock
        ),
        server,
    )
    feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(
        FeedbackServicer(feedback=feedback, permits=feedback_permits, clock=clock), server
    )
    answers = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(answers, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return Gateway(server=server, health=answers, settings=settings, chores=chores, closers=closers)
