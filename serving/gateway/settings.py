"""Settings of the gateway, section `[gateway]`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from serving.gateway.access.settings import AuthorizationSettings, QuotaSettings, TlsSettings


class StageShares(BaseModel):
    """How one deadline is split. What a stage does not use goes to the next; the rest is for policy and encoding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: float = Field(0.25, gt=0, lt=1, description="Reading the user's rows.")
    candidates: float = Field(0.25, gt=0, lt=1, description="Retrieval by the model.")
    score: float = Field(0.35, gt=0, lt=1, description="Scoring by the model.")
    decision_log: float = Field(0.1, gt=0, lt=1, description="Making a randomised decision durable.")


class Sync(StrEnum):
    """What a ranking waits for before it is answered."""

    EACH = "each"
    INTERVAL = "interval"


class DecisionLogSettings(BaseModel):
    """When decisions are on disk, and how many may wait for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sync: Sync = Field(
        Sync.INTERVAL,
        description="interval: no answer waits for the disk; a crash of the gateway loses the decisions of the last "
        "`write_ms`, one of the machine those of `sync_ms`, and they are counted. each: a randomised answer waits for "
        "the sync of its line.",
    )
    write_ms: int = Field(20, ge=1, le=1000, description="interval: lines are handed to the system so often.")
    sync_ms: int = Field(1000, ge=1, le=60_000, description="interval: and are synced to disk so often.")
    queue: int = Field(4_000, ge=1, description="Decisions waiting to be written; more are refused.")
    segment_mb: int = Field(64, ge=1, description="A segment of the decision log is closed at this size.")


class RolloutSettings(BaseModel):
    """Other versions than `model_version_label` asks for, by TensorFlow Serving's labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    canary_label: str = Field("", description="The label that answers a share of the users; empty turns it off.")
    canary_share: float = Field(0.05, ge=0, le=1, description="That share; the same users as long as the label is.")
    shadow_label: str = Field("", description="The label that is asked too, and only compared; empty turns it off.")
    shadow_share: float = Field(1, ge=0, le=1, description="For which share of the users.")
    shadow_calls: int = Field(4, ge=1, description="So many at a time; more are left out.")

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        if self.canary_label and self.canary_label == self.shadow_label:
            raise ValueError("canary_label and shadow_label are the same; a version that answers is no shadow")
        return self


def _host_and_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError("give HOST:PORT, the port from 0 (any free one) to 65535")
    return address


HostAndPort = Annotated[str, AfterValidator(_host_and_port)]
HostAndPortOrNone = Annotated[str, AfterValidator(lambda address: address and _host_and_port(address))]


class GatewaySettings(BaseModel):
    """Addresses, budgets and limits of the gRPC gateway."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    address: HostAndPort = Field("127.0.0.1:50051", description="Where the gateway listens.")
    metrics_address: HostAndPortOrNone = Field(
        "127.0.0.1:9464", description="Where Prometheus scrapes; empty turns it off."
    )
    allow_public_plaintext: bool = Field(
        False, description="Listen beyond this machine without TLS: for a private network that you trust."
    )
    tls: TlsSettings = TlsSettings()
    authorization: AuthorizationSettings = AuthorizationSettings()
    quota: QuotaSettings = QuotaSettings()
    max_request_kb: int = Field(4096, ge=64, description="A larger request is refused unread.")
    max_metadata_kb: int = Field(16, ge=4, le=1024, description="So is one with more metadata.")
    reflection: bool = Field(True, description="Tell callers the services' descriptors.")
    log_format: Literal["text", "json"] = Field("text", description="json: one object a line, for machines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug writes a line for each answer."
    )
    slow_request_ms: float = Field(500, ge=0, description="A slower call is written to the log; 0 turns it off.")
    slow_requests_kept: int = Field(100, ge=1, description="So many are kept; SIGUSR1 writes all to the log.")
    tracing: bool = Field(False, description="Send OpenTelemetry spans by OTLP, as the OTEL_* variables say.")
    workers: int = Field(
        1, ge=1, le=64, description="Processes that share the port; each has its own permits and quotas."
    )
    share_port: bool = Field(False, description="Let several gateways listen on one port (SO_REUSEPORT).")
    drain_s: float = Field(10, ge=0, description="How long calls in flight may take after SIGTERM.")

    model_server: str = Field("127.0.0.1:8500", description="TensorFlow Serving, or the embedded stand-in.")
    model_name: str = Field("longtail", description="The model's name there.")
    model_version_label: str = Field("", description='Ask for this label, such as "stable"; empty asks for the latest.')
    rollout: RolloutSettings = RolloutSettings()
    contract_path: Path | None = Field(None, description="contract.json; default: the newest published model's.")
    model_calls: int = Field(
        2,
        ge=1,
        description="Predict calls at a time. A second one leaves when it is full or somebody has waited 20 ms.",
    )
    model_users_a_call: int = Field(32, ge=1, description="Users in one of them at most.")
    model_check_s: float = Field(2, gt=0, description="How often the model's signatures are compared with it.")

    permits: int = Field(64, ge=1, description="Rankings at a time at most.")
    least_permits: int = Field(
        8, ge=1, description="It falls to this at least while answers take longer than target_ms."
    )
    target_ms: int = Field(150, ge=1, description="A ranking that takes longer says that too many are in work.")
    queue: int = Field(
        16, ge=0, description="Calls that may wait for a permit; more are not taken, or with 0 refused at once."
    )
    queue_ms: int = Field(150, ge=1, description="For so long at most.")
    breaker_failures: int = Field(
        5, ge=1, description="After so many failures in a row a dependency is not asked for a while."
    )
    breaker_open_ms: int = Field(500, ge=1, description="For so long, then one call tries; twice as long if it fails.")
    backlog: int = Field(
        128,
        ge=2,
        description="Calls of one method that may wait to be taken; from half of it on some are refused, CANCELLED.",
    )
    batch_permits: int = Field(32, ge=0, description="How many of them calls of priority BATCH may hold.")
    batch_users: int = Field(48, ge=1, description="Users of BatchRankItems ranked at a time, over all streams.")
    batch_users_beside: int = Field(2, ge=1, description="The same while people are served by RankItems.")
    batch_rest: float = Field(
        2.0, ge=0, le=100, description="And then a place rests so many times as long as its user took."
    )
    feedback_permits: int = Field(64, ge=1, description="RecordEvents calls at a time.")
    retry_after_ms: int = Field(50, ge=1, description="The delay that a refused caller is told.")
    default_deadline_ms: int = Field(1000, ge=1, description="For callers that set none.")
    max_deadline_ms: int = Field(5000, ge=1, description="A longer deadline of the caller is cut to this.")
    stages: StageShares = StageShares()

    allow_forget_user: bool = Field(False, description="Without authorization: let every caller erase a user.")
    allow_replay: bool = Field(False, description="Accept `now` without authorization; with it, scope admin decides.")
    policy_path: Path | None = Field(None, description="policy.toml; default: the one shipped.")
    policy_check_s: float = Field(2, gt=0, description="How often that file is looked at; SIGHUP reloads at once.")
    candidates_per_source: int = Field(200, ge=1, le=500, description="How many items POPULAR and FRESH name each.")
    item_check_s: float = Field(10, gt=0, description="How often the item statistics file is looked at.")
    remembered_users: int = Field(2_000, ge=0, description="Rows kept for when the feature store fails.")

    decision_log: DecisionLogSettings = DecisionLogSettings()

    follow_feedback: bool = Field(True, description="Apply recorded events to the online store in this process.")
    follow_poll_ms: int = Field(20, ge=1, description="How often the event log is looked at for new events.")
