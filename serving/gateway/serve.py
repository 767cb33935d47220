"""From settings to a gateway that serves until SIGTERM: the adapters are chosen here, and nowhere else."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TYPE_CHECKING

from feature_repo.decisions.campaigns import Campaigns
from feature_repo.decisions.records import POLICIES
from feature_repo.decisions.segments import close_segments
from feature_repo.layout import StateDir
from feature_repo.log.event_log import Position
from feature_repo.log.event_streams import open_sink
from feature_repo.log.pseudonyms import open_pseudonyms
from feature_repo.online.store import open_store
from feature_repo.settings import FeatureSettings
from feature_repo.stream.state import StreamStateError
from feature_repo.stream.updates import make_memory, open_worker
from serving.gateway.access.gate import Gate, open_gate
from serving.gateway.access.tls import is_loopback
from serving.gateway.app import build, refuse_exposure
from serving.gateway.breaker import Breaker, GuardedFeatures, GuardedScorer
from serving.gateway.campaigns.audience import ParquetAudience
from serving.gateway.decisions.decision_id import new_decision_id
from serving.gateway.decisions.decision_log import JsonlDecisionLog
from serving.gateway.decisions.explaining import DecisionArchive
from serving.gateway.domain import UserId
from serving.gateway.errors import FeaturesError
from serving.gateway.features.feast_features import FeastFeatures
from serving.gateway.features.item_catalog import ParquetItemCatalog, source_path
from serving.gateway.features.row_memory import RowMemory
from serving.gateway.feedback.following import Following
from serving.gateway.feedback.recording import Feedback
from serving.gateway.observing import tracing
from serving.gateway.observing.shared_metrics import workers_directory
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.observing.trail import SlowRequests
from serving.gateway.policy.book import PolicyBook
from serving.gateway.ports import Ports
from serving.gateway.privacy import Erase
from serving.gateway.running import process
from serving.gateway.running.aside import process_aside
from serving.gateway.running.background import Chore
from serving.gateway.running.metrics_endpoint import serve_metrics
from serving.gateway.scoring.scorers import Scorers
from serving.gateway.settings import GatewaySettings
from serving.gateway.wire.hiding import hiding

if TYPE_CHECKING:
    from feature_repo.privacy.erasure import Proof

START_TIMEOUT_S = 5.0
MIB = 1024 * 1024

_log = logging.getLogger(__name__)


async def serve(
    settings: GatewaySettings,
    *,
    features: FeatureSettings,
    state: StateDir,
    on_ready: Callable[[int], None],
    clock: Callable[[], float] = time.time,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains. Raises LongtailError for what must be mended before it can.

    `clock` gives the moment that answers hold for; deadlines and waits are real either way.
    """
    refuse_exposure(settings)
    process.begin()
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        slow = SlowRequests(settings.slow_request_ms, kept=settings.slow_requests_kept)
        loop.add_signal_handler(signal.SIGUSR1, slow.write_all)
        telemetry = Telemetry(slow)
        if settings.tracing:
            stack.callback(tracing.turn_on())
        gate = _gate(settings, state)
        shared = workers_directory()
        policies = PolicyBook(
            settings.policy_path,
            archive=state.decisions / POLICIES,
            in_force=None if shared is None else shared / "policy.json",
        )
        loop.add_signal_handler(signal.SIGHUP, _reload, policies, gate)
        scorers = Scorers(settings, state, telemetry)
        stack.push_async_callback(scorers.close)
        await scorers.verify_at_start(timeout_s=START_TIMEOUT_S)
        store = open_store(state, features)
        reader = FeastFeatures(store)
        stack.callback(reader.close)
        await _warm_up(reader)
        catalog = ParquetItemCatalog(source_path(store), count=telemetry.items)
        await catalog.refresh()
        events = open_sink(state, features)
        chores = [
            Chore(name="model check", every_s=settings.model_check_s, do=scorers.check),
            Chore(name="item statistics", every_s=settings.item_check_s, do=catalog.refresh),
            Chore(name="policy check", every_s=settings.policy_check_s, do=_policy_check(policies, telemetry)),
            Chore(name="gauges", every_s=1, do=telemetry.sample),
            Chore(name="token check", every_s=settings.authorization.check_s, do=_token_check(gate)),
        ]
        on_recorded = _follow(
            settings,
            features=features,
            state=state,
            telemetry=telemetry,
            chores=chores,
            stack=stack,
        )
        archive = DecisionArchive(state.decisions)
        stack.callback(archive.close)
        feedback = Feedback(events, telemetry, on_recorded=on_recorded)
        stack.callback(feedback.close)
        gateway = build(
            settings,
            ports=Ports(
                features=GuardedFeatures(reader, _breaker(settings)),
                catalog=catalog,
                scorer=GuardedScorer(scorers.scorer, _breaker(settings)),
                decisions=_decisions(settings, state, telemetry, stack),
                memory=RowMemory(settings.remembered_users),
                lifecycle=features.lifecycle,
                candidates_per_source=settings.candidates_per_source,
                new_decision_id=new_decision_id,
            ),
            policies=policies,
            feedback=feedback,
            telemetry=telemetry,
            chores=chores,
            gate=gate,
            erase=_erase(state, features),
            explain=archive.explain,
            campaigns=Campaigns(state.campaigns),
            audience=ParquetAudience(state.features),
            hide=hiding(open_pseudonyms(features.pseudonym_key_file)),
            clock=clock,
        )
        stack.callback(serve_metrics(settings.metrics_address, telemetry))
        await gateway.start()
        process.settle()
        on_ready(gateway.port)
        await stop.wait()
        _log.info("draining, at most %g s", settings.drain_s)
        await gateway.drain()


def _gate(settings: GatewaySettings, state: StateDir) -> Gate:
    if not (is_loopback(settings.address) or settings.authorization.is_on or settings.tls.client_ca_file):
        _log.warning("gateway.address %s can be reached by others, and anyone may call", settings.address)
    return open_gate(
        settings.authorization,
        settings.quota,
        allow_replay=settings.allow_replay,
        allow_forget_user=settings.allow_forget_user,
        audit_directory=state.audit,
    )


def _erase(state: StateDir, features: FeatureSettings) -> Erase:
    def erase(user_id: str, now: datetime) -> Proof:
        from feature_repo.privacy.erasure import erase_user

        return erase_user(state, features, user_id, now=now)

    return erase


def _reload(policies: PolicyBook, gate: Gate) -> None:
    policies.reload()
    gate.reload()


def _token_check(gate: Gate) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        gate.reload_if_touched()

    return check


def _breaker(settings: GatewaySettings) -> Breaker:
    return Breaker(failures=settings.breaker_failures, open_s=settings.breaker_open_ms / 1000)


def _decisions(
    settings: GatewaySettings, state: StateDir, telemetry: Telemetry, stack: AsyncExitStack
) -> JsonlDecisionLog:
    """Segments are closed in a process of its own, started for each: it would hold up the loop for seconds."""

    def close() -> None:
        aside = process_aside()
        aside.submit(close_segments, state.decisions).add_done_callback(_tell_failure)
        aside.shutdown(wait=False)  # once that is done

    close()  # what a crash left
    decisions = JsonlDecisionLog(
        state.decisions,
        capacity=settings.decision_log.queue,
        segment_bytes=settings.decision_log.segment_mb * MIB,
        sync=settings.decision_log.sync,
        write_s=settings.decision_log.write_ms / 1000,
        sync_s=settings.decision_log.sync_ms / 1000,
        telemetry=telemetry,
        on_closed=close,
    )
    stack.callback(decisions.close)
    return decisions


def _tell_failure(closing: Future[int]) -> None:
    if not closing.cancelled() and (error := closing.exception()) is not None:
        _log.error("decision log: a segment stays as it is, to be tried again with the next: %s", error)


def _follow(
    settings: GatewaySettings,
    *,
    features: FeatureSettings,
    state: StateDir,
    telemetry: Telemetry,
    chores: list[Chore],
    stack: AsyncExitStack,
) -> Callable[[], None]:
    """Adds the chore that applies events, and gives what wakes it.

    Its store, and so its connection, is its own: a reader never sees half of a row that is being written.
    """
    if not settings.follow_feedback or features.event_stream != "log":
        return lambda: None
    worker = open_worker(state, features, make=make_memory_aside)
    following = Following(worker, poll_s=settings.follow_poll_ms / 1000, telemetry=telemetry)
    stack.callback(worker.close)
    stack.callback(following.close)
    chores.append(Chore(name="feedback", every_s=0, do=following.catch_up))
    return following.wake


def make_memory_aside(state: StateDir, settings: FeatureSettings, made_from: str) -> Position:
    """The feedback worker's memory, made beside: a long log would take a hundred megabytes that stay, and seconds of
    the interpreter. No event is followed before. Raises LongtailError."""
    with process_aside(niceness=0) as aside:
        try:
            return aside.submit(make_memory, state, settings, made_from).result()
        except BrokenProcessPool as error:
            raise StreamStateError("the process that reads the event log ended before it was done") from error


async def _warm_up(reader: FeastFeatures) -> None:
    """The first read opens connections."""
    try:
        await reader.read(UserId("nobody"), timeout_s=START_TIMEOUT_S)
    except FeaturesError as error:
        _log.warning("starting without the feature store, and trying on: %s", error.detail)


def _policy_check(policies: PolicyBook, telemetry: Telemetry) -> Callable[[], Awaitable[None]]:
    last = policies.policy.version

    async def check() -> None:
        nonlocal last
        policies.reload_if_touched()
        telemetry.policy.labels(last).set(0)
        last = policies.policy.version
        telemetry.policy.labels(last).set(1)

    return check
