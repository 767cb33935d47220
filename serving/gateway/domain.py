"""The values a ranking is made of. Nothing here knows the wire, Feast or TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, NewType

import numpy as np
import numpy.typing as npt

from feature_repo.contract import FeatureValue
from feature_repo.lifecycle import Lifecycle

UserId = NewType("UserId", str)
ItemId = NewType("ItemId", str)
Floats = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


class Objective(StrEnum):
    AUTO = "auto"
    ACTIVATE = "activate"
    RETAIN = "retain"
    EXPLORE = "explore"


class Priority(StrEnum):
    INTERACTIVE = "interactive"
    BATCH = "batch"


class Source(StrEnum):
    """What named a candidate."""

    CALLER = "caller"
    RETRIEVAL = "retrieval"
    POPULAR = "popular"
    FRESH = "fresh"
    FALLBACK = "fallback"


class Verdict(StrEnum):
    """What the caller should do."""

    SHOW = "show"
    HOLD_OUT = "hold_out"
    SUPPRESSED = "suppressed"


class Drop(StrEnum):
    """Why a candidate is not in the answer."""

    DUPLICATE = "duplicate"
    EXCLUDED = "excluded"
    SEEN = "seen"
    WITHDRAWN = "withdrawn"
    BELOW_FLOOR = "below_floor"
    BELOW_LIMIT = "below_limit"


class GroupStatus(StrEnum):
    """Missing is not stale, and neither is failed."""

    FRESH = "fresh"
    STALE = "stale"
    MISSING = "missing"
    DEFAULTED = "defaulted"


class Behavior(NamedTuple):
    """A tuple: a request makes dozens of them."""

    item_id: ItemId
    event_type: str
    unix_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Campaign:
    """Why a user is ranked for whom nobody asked: to be contacted. `sent` is what campaigns chose already."""

    campaign_id: str
    holdout_rate: float
    sent: tuple[tuple[str, float], ...]  # (channel, unix_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """One valid question. `history` is None when the feature store's counts; `now_unix_s` is None when it is now."""

    user_id: UserId
    history: tuple[Behavior, ...] | None = None
    candidate_item_ids: tuple[ItemId, ...] = ()
    sources: tuple[Source, ...] = ()
    limit: int = 10
    surface: str = ""
    channel: str = ""
    objective: Objective = Objective.AUTO
    exclude_item_ids: frozenset[ItemId] = frozenset()
    require_full: bool = False
    explain: bool = False
    now_unix_s: float | None = None
    idempotency_key: str = ""
    priority: Priority = Priority.INTERACTIVE
    campaign: Campaign | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One user's row of one view, as the store has it."""

    values: Mapping[str, FeatureValue]
    event_unix_s: float


Rows = Mapping[str, Row]  # by view; a view that is not there has no row


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureGroup:
    """One view's values, defaults where the row has none, and how far to trust them."""

    name: str
    status: GroupStatus
    age_s: float | None
    values: Mapping[str, FeatureValue]

    @property
    def has_row(self) -> bool:
        return self.status in (GroupStatus.FRESH, GroupStatus.STALE)


FeatureGroups = Mapping[str, FeatureGroup]


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """What is known of the user who is ranked for."""

    user_id: UserId
    state: Lifecycle
    days_in_state: float
    p_alive: float | None
    tail_percentile: float
    last_seen_unix_s: float | None
    history: tuple[Behavior, ...]  # newest first


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelUser:
    """The model's inputs of one user, unpadded: lengths are the scorer's business."""

    history_item_ids: tuple[str, ...]  # newest first
    history_event_types: tuple[str, ...]
    history_age_s: Float32s  # [history]
    user_features: Float32s  # [len(MODEL_USER_FEATURES)], NaN is missing
    user_weights: Float32s  # [embedding + 1], or [0] when there are none
    user_weights_version: int
    user_id: UserId = UserId("")  # no input: chooses the version that is asked


class Candidate(NamedTuple):
    item_id: ItemId
    source: Source


@dataclass(frozen=True, slots=True)
class Candidates:
    """In columns of equal length: a request has hundreds, and most are looked at by column only."""

    item_ids: tuple[ItemId, ...] = ()
    sources: tuple[Source, ...] = ()

    @classmethod
    def of(cls, source: Source, item_ids: tuple[ItemId, ...]) -> Candidates:
        return cls(item_ids, (source,) * len(item_ids))

    def __len__(self) -> int:
        return len(self.item_ids)

    def __getitem__(self, place: int) -> Candidate:
        return Candidate(self.item_ids[place], self.sources[place])

    def __iter__(self) -> Iterator[Candidate]:
        return map(Candidate, self.item_ids, self.sources)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    name: str
    version: int
    label: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The model's answer: one calibrated probability per candidate, in their order."""

    values: Float32s  # [candidates]
    model: ModelVersion


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The eligible candidates and all that the policy is told of them; `model` is None when the prior stands in.

    Each number is of float32 precision, as the decision log keeps it, so that a replay computes the same.
    """

    candidates: Candidates
    scores: Float32s  # [candidates], 0 without a model
    relevance: Floats  # [candidates], the model's score, or the prior's word
    novelty: Floats  # [candidates]
    exposures: Floats  # [candidates], times shown in vain, less the longer ago
    categories: Ints  # [candidates], equal for the same category; 0 is unknown
    category_names: Mapping[int, str]
    rates: Floats  # [candidates], smoothed share of those shown the item who engaged; NaN when nobody was
    trials: Floats  # [candidates], how many were
    model: ModelVersion | None

    @property
    def is_prior(self) -> bool:
        return self.model is None


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One factor of an item's value: value = product of term^weight."""

    name: str
    value: float
    weight: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedItem:
    item_id: ItemId
    rank: int
    score: float
    value: float
    propensity: float
    source: Source
    is_exploration: bool
    terms: tuple[Term, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Degradation:
    """A dependency that could not answer in full."""

    dependency: str
    cause: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """Where a user is; `version` changes with all that decides who is in which arm and what the arm does."""

    layer: str
    name: str
    arm: str
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """The answer. Items and drops together are all candidates."""

    decision_id: str
    at_unix_s: float
    user: User
    items: tuple[RankedItem, ...]
    groups: FeatureGroups
    model: ModelVersion | None
    policy_version: str
    experiments: tuple[Experiment, ...]
    dropped: Mapping[Drop, int]
    scored: Scored  # what the items were chosen from
    unit: str  # who is randomised
    user_features: Float32s | None = None  # what the model was told of the user
    verdict: Verdict = Verdict.SHOW
    reason: str = ""  # of another verdict than SHOW
    contact_propensity: float = 1.0  # probability that this user is not held out
    explores: bool = True  # False: arranged anew without exploration, since the draw could not be logged
    degradations: tuple[Degradation, ...] = ()
    timings_us: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_randomized(self) -> bool:
        """True when another draw could have answered differently: then the propensities must be on record."""
        return self.verdict is Verdict.SHOW and any(item.propensity < 1 for item in self.items)
