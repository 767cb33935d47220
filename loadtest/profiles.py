"""Profiles: how much load, of what kind, for how long, and what must hold. Data, in `profiles.toml`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loadtest.errors import LoadTestError

SHIPPED: Final = Path(__file__).with_name("profiles.toml")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Slo(_Value):
    """What must hold for the run to pass; counted over all requests after the warm-up."""

    p99_ms: float = Field(gt=0, description="99 % of requests are answered within so long of when they were due.")
    error_rate: float = Field(ge=0, le=1, description="Share of requests not answered, or refused.")
    degraded_share: float = Field(ge=0, le=1, description="Share of the answers that say they are degraded.")


class _Weights(_Value):
    @model_validator(mode="after")
    def _something_has_weight(self) -> Self:
        if not any(self.weights().values()):
            raise ValueError(f"all weights are 0; give one of {', '.join(self.weights())} more")
        return self

    def weights(self) -> dict[str, float]:
        raise NotImplementedError


class UserMix(_Weights):
    """Whom the requests are for: relative weights, and the shape of the head."""

    head: float = Field(0.5, ge=0, description="The most active users, by Zipf's law.")
    tail: float = Field(0.4, ge=0, description="All other users, each as likely.")
    unseen: float = Field(0.1, ge=0, description="Ids nobody has seen before, a new one each time.")
    head_fraction: float = Field(0.1, gt=0, le=1, description="So much of the users is the head.")
    zipf_exponent: float = Field(1.1, ge=0, description="The head's user of rank r has weight r^-exponent.")

    def weights(self) -> dict[str, float]:
        return {"head": self.head, "tail": self.tail, "unseen": self.unseen}


class RequestMix(_Weights):
    """What is asked: relative weights."""

    rank_candidates: float = Field(0.6, ge=0, description="RankItems of items the caller names.")
    rank_sources: float = Field(0.3, ge=0, description="RankItems of items the gateway finds.")
    user_state: float = Field(0.1, ge=0, description="GetUserState.")
    record_events: float = Field(0.0, ge=0, description="RecordEvents. It writes to the event log, so it is off.")

    def weights(self) -> dict[str, float]:
        return self.model_dump()

    def with_record_share(self, share: float) -> RequestMix:
        """The same mix, diluted so that `share` of all requests are RecordEvents."""
        others = self.rank_candidates + self.rank_sources + self.user_state
        if not 0 <= share < 1 or not others:
            raise LoadTestError(f"record share {share} is not allowed; give 0 or more and less than 1")
        return self.model_copy(update={"record_events": others * share / (1 - share)})


class Profile(_Value):
    """One kind of load test. Always bounded: in time by `duration_s`, in requests by `loadtest.arrivals`."""

    rate_per_s: float = Field(gt=0, le=20_000, description="Requests due per second; ignored when closed_loop.")
    callers: int = Field(gt=0, le=2_000, description="Concurrent callers; more requests than this never wait at once.")
    duration_s: float = Field(gt=0, le=3_600)
    warmup_s: float = Field(0, ge=0, description="Requests due in the first seconds are made but not counted.")
    timeout_ms: float = Field(1_000, gt=0, le=60_000, description="The deadline each request carries.")
    closed_loop: bool = Field(False, description="Each caller asks again as soon as it is answered.")
    candidates: int = Field(100, ge=1, le=1_000, description="Items named in a RankItems with candidates.")
    limit: int = Field(10, ge=1, le=200, description="Items asked for.")
    users: UserMix = UserMix()
    requests: RequestMix = RequestMix()
    slo: Slo

    @model_validator(mode="after")
    def _something_is_counted(self) -> Self:
        if self.warmup_s >= self.duration_s:
            raise ValueError(f"warmup_s {self.warmup_s:g} leaves nothing of duration_s {self.duration_s:g} to count")
        return self


def load(name: str, path: Path = SHIPPED, *, overrides: dict[str, object] | None = None) -> Profile:
    """The profile of that name, with single fields overridden; None in `overrides` means as in the profile."""
    try:
        profiles = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise LoadTestError(f"cannot read profiles from {path}: {error}") from error
    if not isinstance(profiles.get(name), dict):
        raise LoadTestError(f"no profile {name!r} in {path}; there are {', '.join(sorted(profiles)) or 'none'}")
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    try:
        return Profile.model_validate({**profiles[name], **given})
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])) or name}: {e['msg']}" for e in error.errors())
        raise LoadTestError(f"profile {name!r}: {'; '.join(problems)}") from error
