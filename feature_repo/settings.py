"""Settings of data and features, section `[features]`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from feature_repo.events import CONTACT_TYPES

EVENT_WEIGHTS = {
    "view": 1.0,
    "click": 1.0,
    "add_to_cart": 2.0,
    "purchase": 3.0,
    "rating": 1.0,
    "return": -1.0,
    "exposure": 0.0,
    "contact": 0.0,
    "opt_out": 0.0,
    "opt_in": 0.0,
}


class LifecycleSettings(BaseModel):
    """Thresholds of the lifecycle states, in days; `feature_repo.lifecycle` applies them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    new_days: float = Field(7, gt=0, description="A user is new for so many days after the first event.")
    resurrected_days: float = Field(7, gt=0, description="Resurrected for so many days after the return.")
    at_risk_after_days: float = Field(14, gt=0, description="At risk after so many days without an event.")
    dormant_after_days: float = Field(30, ge=1, description="Dormant after so many days without an event.")
    active_min_visits_28d: int = Field(4, ge=1, description="Active from so many active days in 28; casual below.")

    @model_validator(mode="after")
    def _thresholds_ascend(self) -> Self:
        if self.at_risk_after_days >= self.dormant_after_days:
            raise ValueError(
                f"at_risk_after_days ({self.at_risk_after_days:g}) must be below "
                f"dormant_after_days ({self.dormant_after_days:g})"
            )
        return self


class MaterializeSettings(BaseModel):
    """How `longtail features materialize` loads the online store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows_per_s: float = Field(0, ge=0, description="At most so many rows per second, to spare the store; 0: no limit.")
    connections: int = Field(2, ge=1, le=32, description="Chunks of rows under way at a time.")
    patience_s: float = Field(60, ge=0, description="How long a store that does not answer is tried again.")


class QualitySettings(BaseModel):
    """What `longtail features validate` and `materialize` let pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_row_loss: float = Field(
        0.5, ge=0, le=1, description="Refuse a table that lost more than this share of the rows last loaded."
    )
    warn_psi: float = Field(
        0.1, ge=0, description="Name features whose population stability index against the tables last loaded is above."
    )
    max_psi: float = Field(
        0, ge=0, description="Refuse tables with such an index above this; 0 names them only. 0.25 is customary."
    )


class FeatureSettings(BaseModel):
    """How events become features and where features are served from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    online_store: Literal["sqlite", "redis"] = Field("sqlite", description="Feast's online store.")
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Used when online_store is redis.")
    event_stream: Literal["log", "redis", "kafka"] = Field(
        "log",
        description="Where gateways put recorded events: this machine's event log, or a stream that "
        "`longtail feedback-worker` takes into its event log.",
    )
    stream_name: str = Field("longtail-events", description="The Redis stream or Kafka topic.")
    kafka_servers: str = Field("127.0.0.1:9092", description="Used when event_stream is kafka; the Redis is redis_url.")
    kafka_options: dict[str, str] = Field(
        default={}, description="More of librdkafka's settings, such as security.protocol."
    )
    pseudonym_key_file: Path | None = Field(
        None, description="A file with a secret key: user ids then become keyed hashes where they enter."
    )
    retention_days: float = Field(
        0, ge=0, description="`longtail data prune` drops events older than this; 0 keeps them."
    )
    event_weights: dict[str, float] = Field(
        default=EVENT_WEIGHTS,
        description="How much an event of each type says the user likes the item; above 0 is an engagement. "
        "Types that are not named keep their default.",
    )
    default_event_weight: float = Field(1.0, description="The weight of event types not listed.")
    build_memory: str = Field(
        "",
        pattern=r"^(\d+(\.\d+)?\s*([KMGT]i?B|%))?$",
        description="Memory of a build, such as 8GB, and of DuckDB where training reads the log; more goes to disk. "
        "Empty: 80 % of the machine.",
    )
    build_threads: int = Field(0, ge=0, description="Threads of that. 0: one per core.")
    neighbor_history: int = Field(
        50, ge=2, le=500, description="A user's last so many items count for the co-occurrence of `item_neighbors`."
    )
    neighbors_every_days: float = Field(
        1.0, ge=0, description="An incremental build keeps `item_neighbors` for so long; 0 computes it each time."
    )
    lifecycle: LifecycleSettings = LifecycleSettings()
    materialize: MaterializeSettings = MaterializeSettings()
    quality: QualitySettings = QualitySettings()

    @field_validator("event_weights")
    @classmethod
    def _keep_defaults(cls, given: dict[str, float]) -> dict[str, float]:
        """A weight for one more type must not make a `return` an engagement."""
        for name in CONTACT_TYPES:
            if given.get(name, 0.0) > 0:
                raise ValueError(
                    f"the weight of {name!r} is {given[name]:g}; a contact is no engagement: give 0 or less"
                )
        return {**EVENT_WEIGHTS, **given}

    def weight(self, event_type: str) -> float:
        return self.event_weights.get(event_type, self.default_event_weight)
