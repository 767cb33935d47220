"""What Prometheus sees of the gateway.

Import this before Feast, which switches prometheus_client to sharing files between processes when it comes first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.gateway.domain import Ranking
from serving.gateway.errors import Cause
from serving.gateway.observing import trail as trails
from serving.gateway.observing.logs import FACTS
from serving.gateway.observing.shared_metrics import metrics_are_shared
from serving.gateway.observing.trail import SlowRequests, Trail

SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
DIFFERENCES: Final = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SHARES: Final = tuple(tenth / 10 for tenth in range(11))
AGES_S: Final = (1, 10, 60, 600, 3600, 6 * 3600, 86_400, 7 * 86_400, 30 * 86_400)

Metric = TypeVar("Metric", Counter, Histogram)

_log = logging.getLogger(__name__)


class Kept(Generic[Metric]):
    """A metric whose children, once made, are found without making strings and taking a lock."""

    def __init__(self, metric: Metric) -> None:
        self._metric: Metric = metric
        self._children: dict[tuple[str, ...], Metric] = {}

    def labels(self, *values: str) -> Metric:
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child


class Telemetry:
    """The metrics of one gateway, in a registry of their own."""

    def __init__(self, slow: SlowRequests | None = None) -> None:
        self.slow = slow or SlowRequests(0, kept=1)
        self._sampled: list[tuple[Gauge, Callable[[], float]]] = []
        self.registry = registry = CollectorRegistry()
        self.requests = Kept(
            Counter("longtail_requests", "Calls answered, by gRPC status.", ["method", "code"], registry=registry)
        )
        self.request_s = Kept(
            Histogram("longtail_request_seconds", "Time to answer.", ["method"], buckets=SECONDS, registry=registry)
        )
        self.stage_s = Kept(
            Histogram(
                "longtail_stage_seconds",
                "Time of a stage, by the user's state.",
                ["stage", "state"],
                buckets=SECONDS,
                registry=registry,
            )
        )
        self.degraded = Kept(
            Counter("longtail_degraded", "Answers degraded, by cause.", ["dependency", "cause"], registry=registry)
        )
        self.dropped = Kept(
            Counter("longtail_candidates_dropped", "Candidates not ranked, by reason.", ["reason"], registry=registry)
        )
        self.explored = Kept(
            Counter("longtail_items_explored", "Items that exploration placed.", ["state"], registry=registry)
        )
        self.feature_status = Kept(
            Counter("longtail_feature_reads", "Feature groups read, by status.", ["group", "status"], registry=registry)
        )
        self.feature_age_s = Kept(
            Histogram(
                "longtail_feature_age_seconds", "Age of the rows read.", ["group"], buckets=AGES_S, registry=registry
            )
        )
        self.events = Counter(
            "longtail_events", "Events received, by what became of them.", ["status"], registry=registry
        )
        self.events_applied = Counter("longtail_events_applied", "Events applied online.", registry=registry)
        self.event_delay_s = Histogram(
            "longtail_event_visible_seconds", "From the log to the online store.", buckets=SECONDS, registry=registry
        )
        self.refusals = Counter(
            "longtail_refusals", "Calls refused, by reason.", ["method", "reason"], registry=registry
        )
        self.slow_requests = Counter(
            "longtail_slow_requests", "Calls over gateway.slow_request_ms.", ["method"], registry=registry
        )
        self.certificate_not_after = Gauge(
            "longtail_certificate_not_after_seconds",
            "When the gateway's certificate ends, Unix time; 0 without TLS.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.permits_taken = Gauge(
            "longtail_permits_taken", "Calls in flight.", ["service"], registry=registry, multiprocess_mode="livesum"
        )
        self.permits_waited_for = Gauge(
            "longtail_permits_waited_for",
            "Calls that wait for a permit.",
            ["service"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.not_taking_s = Counter(
            "longtail_not_taking_seconds",
            "For so long calls were left to wait untaken, since the queue before the permits was full.",
            ["service"],
            registry=registry,
        )
        self.decisions_waiting = Gauge(
            "longtail_decisions_waiting",
            "Decisions that wait to be written.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.model_version = Gauge(
            "longtail_model_version", "Version checked; 0 for none.", registry=registry, multiprocess_mode="livemin"
        )
        self.scored = Kept(
            Counter(
                "longtail_scored",
                "Rankings that a model scored, by what answered.",
                ["label", "version"],
                registry=registry,
            )
        )
        self.canary_failures = Counter(
            "longtail_canary_failures", "Calls that the canary failed.", ["cause"], registry=registry
        )
        self.shadows = Counter(
            "longtail_shadows", "Calls for the shadow, by what became of them.", ["outcome"], registry=registry
        )
        self.shadow_difference = Histogram(
            "longtail_shadow_score_difference",
            "Mean absolute difference between the shadow's scores and those answered.",
            buckets=DIFFERENCES,
            registry=registry,
        )
        self.shadow_overlap = Histogram(
            "longtail_shadow_top_overlap",
            "Share of the best ten that shadow and answer have in common.",
            buckets=SHARES,
            registry=registry,
        )
        self.policy = Gauge(
            "longtail_policy_info",
            "1 for the policy in force.",
            ["version"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.items = Gauge("longtail_items", "Items in memory.", registry=registry, multiprocess_mode="livemin")
        self.decisions_written = Counter("longtail_decisions_written", "Lines of the decision log.", registry=registry)
        self.decisions_lost = Counter("longtail_decisions_lost", "Decisions not written.", ["cause"], registry=registry)
        # From 0, so that the first one shows as an increase.
        for cause in (Cause.QUEUE_FULL, Cause.DISK, Cause.CRASH, Cause.BUG):
            self.decisions_lost.labels(cause.value)

    def watch(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """The gauge has that value; with several workers, whose gauges lie in files, as of the last `sample`."""
        if metrics_are_shared():
            self._sampled.append((gauge, value))
        else:
            gauge.set_function(value)

    async def sample(self) -> None:
        for gauge, value in self._sampled:
            gauge.set(value())

    def saw(self, method: str, *, code: str, took_s: float, trail: Trail) -> None:
        """A call that ended. A stream takes as long as it has elements: those are looked at, one by one."""
        self.requests.labels(method, code).inc()
        self.request_s.labels(method).observe(took_s)
        if not trail.is_stream:
            self._look(trail, code=code, total_ms=took_s * 1000)

    def _look(self, trail: Trail, *, code: str, total_ms: float) -> None:
        if self.slow.note(trail, code=code, total_ms=total_ms):
            self.slow_requests.labels(trail.method).inc()
        if _log.isEnabledFor(logging.DEBUG):
            facts = {"method": trail.method, "code": code, "total_ms": round(total_ms, 3), **trail.facts}
            _log.debug("answered", extra={FACTS: facts})

    def observe(self, ranking: Ranking) -> None:
        own = trails.note(ranking)
        if own is not None:
            self._look(own, code="OK", total_ms=ranking.timings_us["total"] / 1000)
        state = ranking.user.state.value
        for stage, us in ranking.timings_us.items():
            self.stage_s.labels(stage, state).observe(us / 1e6)
        for degradation in ranking.degradations:
            self.degraded.labels(degradation.dependency, degradation.cause).inc()
        for reason, count in ranking.dropped.items():
            self.dropped.labels(reason.value).inc(count)
        for group in ranking.groups.values():
            self.feature_status.labels(group.name, group.status.value).inc()
            if group.age_s is not None:
                self.feature_age_s.labels(group.name).observe(group.age_s)
        self.explored.labels(state).inc(sum(item.is_exploration for item in ranking.items))
