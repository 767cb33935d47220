"""The file of items that were shown, with what they were shown for and what came of it: its columns.

`outcomes` writes it, `training` reads it.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = 2  # 1 did not say its window
VERSION_KEY: Final = b"longtail.impressions.schema_version"
WINDOW_KEY: Final = b"longtail.impressions.window_days"

SCHEMA: Final = pa.schema(
    [
        ("decision_id", pa.string()),
        ("user_id", pa.string()),
        ("state", pa.string()),
        ("item_id", pa.string()),
        ("rank", pa.int32()),
        ("decided_at", pa.timestamp("us", "UTC")),
        ("shown_at", pa.timestamp("us", "UTC")),  # of the exposure event, else of the decision
        ("campaign_id", pa.string()),
        ("policy_version", pa.string()),
        ("is_exploration", pa.bool_()),
        ("propensity", pa.float64()),
        ("contact_propensity", pa.float64()),
        ("weight", pa.float64()),  # 1 / propensity, cut
        ("examination", pa.float64()),  # missing for a rank where nothing was drawn
        ("outcomes", pa.int64()),
        ("label", pa.bool_()),  # an outcome within the window
        ("first_outcome_at", pa.timestamp("us", "UTC")),
    ]
)


def schema_of(window_days: float) -> pa.Schema:
    """With what the file says of itself."""
    return SCHEMA.with_metadata({VERSION_KEY: str(SCHEMA_VERSION), WINDOW_KEY: repr(float(window_days))})
