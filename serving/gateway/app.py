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

from feature_repo.decisions.campaigns import Campaigns
from feature_repo.errors import LongtailError
from longtail.activation.v1 import (
    activation_pb2,
    activation_pb2_grpc,
    feedback_pb2,
    feedback_pb2_grpc,
    privacy_pb2,
    privacy_pb2_grpc,
)
from serving.gateway.access.gate import Gate
from serving.gateway.access.tls import Certificates, check_exposure
from serving.gateway.campaigns.audience import ParquetAudience
from serving.gateway.campaigns.selecting import Selector
from serving.gateway.decisions.explaining import Explain, nothing_kept
from serving.gateway.feedback.recording import Feedback
from serving.gateway.load.admission import admitting_server, backlog_options
from serving.gateway.load.limit import Limit
from serving.gateway.load.permits import Permits
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.policy.book import PolicyBook
from serving.gateway.ports import Ports
from serving.gateway.privacy import Erase, PrivacyServicer
from serving.gateway.running.background import Chore
from serving.gateway.servicer import ActivationServicer, FeedbackServicer
from serving.gateway.settings import GatewaySettings
from serving.gateway.wire.boundary import Boundary
from serving.gateway.wire.hiding import Hide, nothing_hidden
from serving.gateway.wire.stream import Lane

SERVICES: Final = (
    activation_pb2.DESCRIPTOR.services_by_name["ActivationService"].full_name,
    feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"].full_name,
    privacy_pb2.DESCRIPTOR.services_by_name["PrivacyService"].full_name,
)
SERVING: Final = health_pb2.HealthCheckResponse.SERVING
PEOPLE_ARE_SERVED_S: Final = 0.2  # for so long after a RankItems, streams give way
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Gateway:
    """A server with what lives as long as it does. `start` binds and answers, `drain` ends it."""

    server: grpc.aio.Server
    health: Any
    settings: GatewaySettings
    certificates: Certificates | None
    chores: Sequence[Chore]
    closers: Sequence[Callable[[], Awaitable[None]]]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    port: int = 0

    async def start(self) -> None:
        """Raises LongtailError when the address cannot be had."""
        try:
            self.port = self._bind()
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

    def _bind(self) -> int:
        if self.certificates is None:
            return self.server.add_insecure_port(self.settings.address)
        return self.server.add_secure_port(self.settings.address, self.certificates.credentials)

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
    gate: Gate | None = None,
    erase: Erase | None = None,
    explain: Explain = nothing_kept,
    campaigns: Campaigns | None = None,
    audience: ParquetAudience | None = None,
    hide: Hide = nothing_hidden,
    clock: Callable[[], float] = time.time,
) -> Gateway:
    """Nothing waits and nothing is bound here. Raises LongtailError for a certificate that cannot be used."""
    refuse_exposure(settings)
    gate = gate or Gate(allow_replay=settings.allow_replay, allow_forget_user=settings.allow_forget_user, clock=clock)
    certificates = Certificates(settings.tls, not_after=telemetry.certificate_not_after) if settings.tls.is_on else None
    retry_after_s = settings.retry_after_ms / 1000
    permits = Permits(
        Limit(settings.permits, least=settings.least_permits, target_s=settings.target_ms / 1000),
        low_permits=settings.batch_permits,
        queue=settings.queue,
        queue_s=settings.queue_ms / 1000,
        retry_after_s=retry_after_s,
        taken=telemetry.permits_taken.labels("activation"),
        not_taking_s=telemetry.not_taking_s.labels("activation"),
    )
    telemetry.watch(telemetry.permits_waited_for.labels("activation"), permits.waiting)
    feedback_permits = Permits(
        Limit(settings.feedback_permits),
        retry_after_s=retry_after_s,
        taken=telemetry.permits_taken.labels("feedback"),
        not_taking_s=telemetry.not_taking_s.labels("feedback"),
    )
    lane = Lane(
        most=settings.batch_users,
        beside=settings.batch_users_beside,
        rest=settings.batch_rest,
        busy_for_s=PEOPLE_ARE_SERVED_S,
    )
    selector = None
    if campaigns is not None and audience is not None:
        selector = Selector(
            campaigns=campaigns,
            audience=audience,
            ports=ports,
            lane=lane,
            stages=settings.stages,
            telemetry=telemetry,
        )
        closers = (*closers, selector.close)
    server = admitting_server(
        interceptors=[Boundary(telemetry, gate, hide)],
        options=_options(settings),
        rooms={f"/{SERVICES[0]}/{method}": permits for method in ("RankItems", "GetUserState")},
    )
    activation_pb2_grpc.add_ActivationServiceServicer_to_server(
        ActivationServicer(
            ports=ports,
            policies=policies,
            permits=permits,
            settings=settings,
            telemetry=telemetry,
            gate=gate,
            explain=explain,
            lane=lane,
            selector=selector,
            clock=clock,
        ),
        server,
    )
    feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(
        FeedbackServicer(feedback=feedback, permits=feedback_permits, clock=clock), server
    )
    if erase is not None:
        privacy_pb2_grpc.add_PrivacyServiceServicer_to_server(
            PrivacyServicer(erase=erase, memory=ports.memory, gate=gate), server
        )
    answers = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(answers, server)
    if settings.reflection:
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return Gateway(
        server=server, health=answers, settings=settings, certificates=certificates, chores=chores, closers=closers
    )


def refuse_exposure(settings: GatewaySettings) -> None:
    """Raises LongtailError for an address that others can reach in the clear, unless the settings want that."""
    if not settings.tls.is_on:
        check_exposure(
            "gateway.address",
            settings.address,
            why="would be served without TLS; set gateway.tls.cert_file and key_file, or",
            allows_plaintext=settings.allow_public_plaintext,
        )
    if settings.metrics_address:
        check_exposure(
            "gateway.metrics_address",
            settings.metrics_address,
            why="metrics are served without TLS; set",
            allows_plaintext=settings.allow_public_plaintext,
        )


def _options(settings: GatewaySettings) -> tuple[tuple[str, int], ...]:
    metadata_bytes = settings.max_metadata_kb * 1024
    return (
        ("grpc.so_reuseport", int(settings.share_port)),
        ("grpc.max_receive_message_length", settings.max_request_kb * 1024),
        ("grpc.max_metadata_size", metadata_bytes),  # between the two, gRPC refuses at random: no such range
        ("grpc.absolute_max_metadata_size", metadata_bytes),
        *backlog_options(settings.backlog),
    )
