"""Settings of the gateway, section `[gateway]`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class GatewaySettings(BaseModel):
    """Addresses, budgets and limits of the gRPC gateway."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = Field("127.0.0.1:50051", description="Where the gateway listens.")
    metrics_address: str = Field("127.0.0.1:9464", description="Where Prometheus scrapes; empty turns it off.")
    model_server: str = Field("127.0.0.1:8500", description="TensorFlow Serving, or the embedded stand-in.")
    model_name: str = Field("longtail", description="The model's name there.")
