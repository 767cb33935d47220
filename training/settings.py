"""Settings of training, section `[training]`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class TrainingSettings(BaseModel):
    """How the recommender is trained, evaluated and exported."""

    model_config = ConfigDict(frozen=True, extra="forbid")
