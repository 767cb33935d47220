"""The feature contract: every feature's name, type, unit, default, owner and meaning, once.

Feast definitions, the pipeline, training and serving all read it. A feature that is not here does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from feature_repo.missing_values import KEEP

HISTORY_LENGTH: Final = 50  # behaviours kept per user, newest first
CONTACT_LENGTH: Final = 50  # contacts kept per user, newest first
EXPOSED_LENGTH: Final = 20  # items shown in vain kept per user, newest first
NEIGHBOR_LENGTH: Final = 50  # neighbours kept per item, best first
AFFINITY_LENGTH: Final = 5  # categories kept per user, best first
GAPS: Final = "s since 1970 UTC, then s between"  # the unit of `packed_lists.gaps`


class Dtype(StrEnum):
    """Types a feature may have; each maps to one type of Feast, Arrow and numpy."""

    STRING = "string"
    INT64 = "int64"
    FLOAT32 = "float32"
    BOOL = "bool"
    STRINGS = "list<string>"
    INT64S = "list<int64>"
    FLOAT32S = "list<float32>"


FeatureValue = str | int | float | bool | list[str] | list[int] | list[float] | None


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column of a view. `default` is what serving uses where a user or item has no row; None is missing.

    A list has at most `max_length` entries; None is no bound, or no list.
    """

    name: str
    dtype: Dtype
    unit: str
    default: FeatureValue
    description: str
    max_length: int | None = None


@dataclass(frozen=True, kw_only=True)
class View:
    """One Feast feature view. `fresh_for` is the age from which serving calls a row STALE; None is never."""

    name: str
    entity: str  # the join key: "user_id" or "item_id"
    owner: str
    fresh_for: timedelta | None
    description: str
    features: tuple[Feature, ...]

    def feature_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    def defaults(self) -> dict[str, FeatureValue]:
        return {feature.name: feature.default for feature in self.features}


def _feature(
    name: str, dtype: Dtype, unit: str, default: FeatureValue, description: str, *, max_length: int | None = None
) -> Feature:
    return Feature(name=name, dtype=dtype, unit=unit, default=default, description=description, max_length=max_length)


USER_BEHAVIOR: Final = View(
    name="user_behavior",
    entity="user_id",
    owner="data",
    fresh_for=timedelta(days=7),
    description="What the user did last: the model's sequence. Streamed; may go stale.",
    features=(
        _feature(
            "history_item_ids",
            Dtype.STRINGS,
            "item_id",
            [],
            "Items of the last 50 engagements, newest first.",
            max_length=HISTORY_LENGTH,
        ),
        _feature(
            "history_type_places",
            Dtype.INT64S,
            "place in `count_event_types`",
            [],
            "Their event types, same order; 0 is the first of `count_event_types`.",
            max_length=HISTORY_LENGTH,
        ),
        _feature(
            "history_gaps_s",
            Dtype.INT64S,
            GAPS,
            [],
            "Their times, same order: when the newest was, then how long before the one before it each was.",
            max_length=HISTORY_LENGTH,
        ),
        _feature(
            "count_event_types",
            Dtype.STRINGS,
            "event_type",
            [],
            "Event types in the history; the counts below are of them.",
            max_length=HISTORY_LENGTH,
        ),
        _feature(
            "counts_1d",
            Dtype.INT64S,
            "events",
            [],
            "History entries of each type in the last day before the row's time.",
            max_length=HISTORY_LENGTH,
        ),
        _feature("counts_7d", Dtype.INT64S, "events", [], "Likewise in the last 7 days.", max_length=HISTORY_LENGTH),
        _feature("counts_30d", Dtype.INT64S, "events", [], "Likewise in the last 30 days.", max_length=HISTORY_LENGTH),
        _feature(
            "affinity_categories",
            Dtype.STRINGS,
            "category",
            [],
            "The user's 5 strongest categories, best first.",
            max_length=AFFINITY_LENGTH,
        ),
        _feature(
            "affinity_shares",
            Dtype.FLOAT32S,
            "share",
            [],
            "Their shares of the user's weighted engagements.",
            max_length=AFFINITY_LENGTH,
        ),
    ),
)

USER_ACTIVITY: Final = View(
    name="user_activity",
    entity="user_id",
    owner="data",
    fresh_for=None,
    description="How the user comes and goes. Never expires; every user ever seen has a row.",
    features=(
        _feature("first_seen_unix_s", Dtype.INT64, "s since 1970 UTC", None, "First event."),
        _feature("last_seen_unix_s", Dtype.INT64, "s since 1970 UTC", None, "Last event."),
        _feature(
            "returned_unix_s",
            Dtype.INT64,
            "s since 1970 UTC",
            None,
            "Last event after an absence long enough to be dormant; missing when none.",
        ),
        _feature("events", Dtype.INT64, "events", 0, "All events but exposures, which the user did not do."),
        _feature("active_days", Dtype.INT64, "days", 0, "Distinct UTC days with an event."),
        _feature("mean_gap_days", Dtype.FLOAT32, "days", None, "Mean gap between active days; missing under two days."),
        _feature("visits_7d", Dtype.INT64, "days", 0, "Active days begun in the last 7 days before the row's time."),
        _feature("visits_28d", Dtype.INT64, "days", 0, "Active days begun in the last 28 days."),
        _feature("visits_90d", Dtype.INT64, "days", 0, "Active days begun in the last 90 days."),
        _feature(
            "p_alive",
            Dtype.FLOAT32,
            "probability",
            None,
            "BG/NBD probability that the user is not lost; 1 by construction after one active day.",
        ),
        _feature(
            "expected_events_30d",
            Dtype.FLOAT32,
            "active days",
            None,
            "BG/NBD expected active days in the next 30 days.",
        ),
        _feature(
            "state",
            Dtype.STRING,
            "lifecycle",
            "new",
            "Lifecycle state at the row's time; serving derives it anew for its own now.",
        ),
        _feature(
            "days_in_state",
            Dtype.FLOAT32,
            "days",
            0.0,
            "Days since the user entered the state; `lifecycle` says from when each counts.",
        ),
        _feature(
            "tail_percentile",
            Dtype.FLOAT32,
            "share of users",
            1.0,
            "Share of the other users with more events (ties half): 1 is the thinnest user.",
        ),
    ),
)

USER_WEIGHTS: Final = View(
    name="user_weights",
    entity="user_id",
    owner="ml",
    fresh_for=None,
    description="The user's own part of the model, W_u − W_0 and b_u; materialized after each training.",
    features=(
        _feature(
            "delta",
            Dtype.FLOAT32S,
            "logit weight",
            [],
            "δ_u followed by b_u, embedding size + 1 numbers; empty is zero.",
        ),
        _feature("model_version", Dtype.INT64, "version", 0, "The model the weights belong to."),
    ),
)

USER_RETURNS: Final = View(
    name="user_returns",
    entity="user_id",
    owner="ml",
    fresh_for=timedelta(days=2),
    description="Will the user come back, alone and when contacted? Materialized after `longtail train-returns`.",
    features=(
        _feature(
            "p_return",
            Dtype.FLOAT32,
            "probability",
            None,
            "Of a visit within `horizon_days` of the row's time without a contact.",
        ),
        _feature(
            "p_return_contacted",
            Dtype.FLOAT32,
            "probability",
            None,
            "Likewise with a contact; missing until an uplift model was released, which needs a logged holdout.",
        ),
        _feature("horizon_days", Dtype.FLOAT32, "days", None, "How far the two probabilities look."),
        _feature(
            "basis",
            Dtype.STRING,
            "model",
            "",
            "What they stand on: `bgnbd`, `return_model` or `uplift_model`; empty without a row.",
        ),
        _feature("returns_model_version", Dtype.INT64, "version", 0, "The training that made the row."),
    ),
)

USER_CONTACTS: Final = View(
    name="user_contacts",
    entity="user_id",
    owner="data",
    fresh_for=timedelta(days=7),
    description="How often we wrote to the user, what the user wants no more, and what was shown in vain. Streamed.",
    features=(
        _feature(
            "channels",
            Dtype.STRINGS,
            "channel",
            [],
            "Channels of the contacts below, by name.",
            max_length=CONTACT_LENGTH,
        ),
        _feature(
            "contacts_1d",
            Dtype.INT64S,
            "contacts",
            [],
            "Contacts of the list below on each channel in the last day before the row's time.",
            max_length=CONTACT_LENGTH,
        ),
        _feature(
            "contacts_7d", Dtype.INT64S, "contacts", [], "Likewise in the last 7 days.", max_length=CONTACT_LENGTH
        ),
        _feature(
            "contacts_30d", Dtype.INT64S, "contacts", [], "Likewise in the last 30 days.", max_length=CONTACT_LENGTH
        ),
        _feature(
            "contact_channel_places",
            Dtype.INT64S,
            "place in `channels`",
            [],
            "Channels of the last 50 contacts, newest first; 0 is the first of `channels`.",
            max_length=CONTACT_LENGTH,
        ),
        _feature(
            "contact_gaps_s",
            Dtype.INT64S,
            GAPS,
            [],
            "Their times, same order, as in `history_gaps_s`; the first is the last contact.",
            max_length=CONTACT_LENGTH,
        ),
        _feature(
            "opted_out_channels",
            Dtype.STRINGS,
            "channel",
            [],
            'Channels whose last choice is an opt-out, by name; "" is every channel.',
        ),
        _feature(
            "exposed_item_ids",
            Dtype.STRINGS,
            "item_id",
            [],
            "The last 20 items shown and not engaged with since, newest first.",
            max_length=EXPOSED_LENGTH,
        ),
        _feature(
            "exposed_counts",
            Dtype.INT64S,
            "exposures",
            [],
            "How often each was shown in vain.",
            max_length=EXPOSED_LENGTH,
        ),
        _feature(
            "exposed_gaps_s",
            Dtype.INT64S,
            GAPS,
            [],
            "When each was last shown, as in `history_gaps_s`.",
            max_length=EXPOSED_LENGTH,
        ),
    ),
)

ITEM_STATS: Final = View(
    name="item_stats",
    entity="item_id",
    owner="data",
    fresh_for=timedelta(days=1),
    description="How items do, and what they are. A matrix in the gateway's memory.",
    features=(
        _feature("exposures", Dtype.INT64, "events", 0, "Times shown, from exposure events."),
        _feature("engagements", Dtype.INT64, "events", 0, "Events of positive weight."),
        _feature("engaged_users", Dtype.INT64, "users", 0, "Distinct users among them."),
        _feature("engagements_30d", Dtype.INT64, "events", 0, "Engagements in the last 30 days before the row's time."),
        _feature(
            "engagement_rate",
            Dtype.FLOAT32,
            "probability",
            None,
            "Of the users who saw the item, the share who then engaged, drawn to the mean; missing without exposures.",
        ),
        _feature(
            "popularity_percentile",
            Dtype.FLOAT32,
            "share of items",
            0.0,
            "Share of the other items with fewer engagements (ties half): 1 is the most popular.",
        ),
        _feature(
            "novelty_bits",
            Dtype.FLOAT32,
            "bits",
            None,
            "−log2 of the share of users who engaged, add-one smoothed; missing for an unknown item.",
        ),
        _feature(
            "first_seen_unix_s",
            Dtype.INT64,
            "s since 1970 UTC",
            None,
            "First event; missing for an item that had none.",
        ),
        _feature("title", Dtype.STRING, "text", "", "For people."),
        _feature("category", Dtype.STRING, "category", "", "The item's first category; empty when unknown."),
        _feature("price", Dtype.FLOAT32, "currency", None, "Missing when unknown."),
        _feature("withdrawn", Dtype.BOOL, "", False, "Must not be shown any more."),
    ),
)

ITEM_NEIGHBORS: Final = View(
    name="item_neighbors",
    entity="item_id",
    owner="data",
    fresh_for=timedelta(days=7),
    description="The items nearest to an item: by what users did with both, and by what is written of them.",
    features=(
        _feature(
            "neighbor_item_ids",
            Dtype.STRINGS,
            "item_id",
            [],
            "Up to 50 items engaged with by the same users, best first.",
            max_length=NEIGHBOR_LENGTH,
        ),
        _feature(
            "neighbor_scores",
            Dtype.FLOAT32S,
            "shrunk cosine",
            [],
            "Their scores, above 0 and below 1.",
            max_length=NEIGHBOR_LENGTH,
        ),
        _feature(
            "content_item_ids",
            Dtype.STRINGS,
            "item_id",
            [],
            "Up to 50 items of like title, text and categories, best first; an item without events has them too.",
            max_length=NEIGHBOR_LENGTH,
        ),
        _feature(
            "content_scores",
            Dtype.FLOAT32S,
            "cosine",
            [],
            "Their TF-IDF scores, above 0 and at most 1.",
            max_length=NEIGHBOR_LENGTH,
        ),
    ),
)

VIEWS: Final = (
    USER_BEHAVIOR,
    USER_ACTIVITY,
    USER_CONTACTS,
    USER_WEIGHTS,
    USER_RETURNS,
    ITEM_STATS,
    ITEM_NEIGHBORS,
)
# Lists of one row that go together, and how long they may be.
ALIGNED: Final = (
    (HISTORY_LENGTH, ("history_item_ids", "history_type_places", "history_gaps_s")),
    (HISTORY_LENGTH, ("count_event_types", "counts_1d", "counts_7d", "counts_30d")),
    (None, ("affinity_categories", "affinity_shares")),
    (CONTACT_LENGTH, ("channels", "contacts_1d", "contacts_7d", "contacts_30d")),
    (CONTACT_LENGTH, ("contact_channel_places", "contact_gaps_s")),
    (EXPOSED_LENGTH, ("exposed_item_ids", "exposed_counts", "exposed_gaps_s")),
    (NEIGHBOR_LENGTH, ("neighbor_item_ids", "neighbor_scores")),
    (NEIGHBOR_LENGTH, ("content_item_ids", "content_scores")),
)
# Lists of places, and the list of the same row that they are places in.
PLACES: Final = {"history_type_places": "count_event_types", "contact_channel_places": "channels"}
USER_VIEWS: Final = tuple(view for view in VIEWS if view.entity == "user_id")


@dataclass(frozen=True, kw_only=True)
class ModelFeature:
    """One number of the model's dense input.

    `missing` is what stands in where it is missing (see `feature_repo.missing_values`); [training] may say otherwise.
    `default` stands in where that has to be learnt and no training user has the feature; None leaves it missing.
    """

    name: str
    unit: str
    default: float | None
    description: str
    missing: str = KEEP


# The model's dense input `user_features` [batch, F], in this order; NaN is missing.
# `transforms.user_features` computes them from the views' rows and the request's time, in training and serving.
MODEL_FEATURES: Final = (
    ModelFeature(name="log_events", unit="log events", default=0.0, description="log(1 + `events`)."),
    ModelFeature(name="log_active_days", unit="log days", default=0.0, description="log(1 + `active_days`)."),
    ModelFeature(name="mean_gap_days", unit="days", default=None, description="As in `user_activity`."),
    ModelFeature(name="visits_7d", unit="days", default=0.0, description="As in `user_activity`."),
    ModelFeature(name="visits_28d", unit="days", default=0.0, description="As in `user_activity`."),
    ModelFeature(name="visits_90d", unit="days", default=0.0, description="As in `user_activity`."),
    ModelFeature(name="days_since_last_seen", unit="days", default=None, description="From the last event to now."),
    ModelFeature(name="days_since_first_seen", unit="days", default=None, description="From the first event to now."),
)
MODEL_USER_FEATURES: Final = tuple(feature.name for feature in MODEL_FEATURES)


def view(name: str) -> View:
    """The view of that name; KeyError names what exists."""
    for candidate in VIEWS:
        if candidate.name == name:
            return candidate
    raise KeyError(f"no view {name!r}; there are {', '.join(v.name for v in VIEWS)}")
