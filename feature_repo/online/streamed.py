"""Which columns feedback keeps fresh; the others hold what the last build gave.

What is not here needs all users or items (percentiles, rates), the catalogue (categories) or a new fit (BG/NBD).
"""

from __future__ import annotations

from typing import Final

from feature_repo.contract import USER_CONTACTS, Feature, View

STREAMED: Final[dict[str, tuple[str, ...]]] = {
    "user_behavior": (
        "history_item_ids",
        "history_type_places",
        "history_gaps_s",
        "count_event_types",
        "counts_1d",
        "counts_7d",
        "counts_30d",
    ),
    "user_activity": (
        "first_seen_unix_s",
        "last_seen_unix_s",
        "returned_unix_s",
        "events",
        "active_days",
        "mean_gap_days",
        "visits_7d",
        "visits_28d",
        "visits_90d",
        "state",
        "days_in_state",
    ),
    "user_contacts": USER_CONTACTS.feature_names(),
    "item_stats": ("exposures", "engagements", "first_seen_unix_s"),
}


def streamed_features(view: View) -> tuple[Feature, ...]:
    """Those that feedback writes."""
    names = STREAMED.get(view.name, ())
    return tuple(feature for feature in view.features if feature.name in names)


def built_features(view: View) -> tuple[Feature, ...]:
    """Those that only a build changes."""
    names = STREAMED.get(view.name, ())
    return tuple(feature for feature in view.features if feature.name not in names)
