"""The decision log as this package wants it: from `feature_repo.decisions.records` to frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from feature_repo.decisions import records
from outcomes.errors import OutcomeError

DECISION_COLUMNS = (
    "decision_id",
    "at_unix_s",
    "user_id",
    "decision",  # "show", "hold_out" or "suppressed"
    "reason",
    "contact_propensity",  # probability of not being held out
    "campaign_id",
    "state",
    "channel",
    "policy_version",
)


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """Each decision once, as it was answered."""

    decisions: pd.DataFrame  # DECISION_COLUMNS
    shown: pd.DataFrame  # decision_id, item_id, rank, propensity, is_exploration
    assignments: pd.DataFrame  # decision_id, experiment, arm, version


def read(directory: Path) -> Decisions:
    """Raises OutcomeError for an empty log, DecisionLogReadError for one that cannot be read."""
    columns = [*DECISION_COLUMNS, "items", "experiments"]
    rows = records.read(directory, columns=columns).to_pylist()
    if not rows:
        raise OutcomeError(f"there is no decision in {directory}; rank through a gateway first")
    shown = [
        (row["decision_id"], item["item_id"], item["rank"], item["propensity"], item["is_exploration"])
        for row in rows
        for item in row["items"]
    ]
    assignments = [
        (row["decision_id"], one["name"], one["arm"], one["version"]) for row in rows for one in row["experiments"]
    ]
    return Decisions(
        decisions=pd.DataFrame(rows, columns=list(DECISION_COLUMNS)),
        shown=pd.DataFrame(shown, columns=["decision_id", "item_id", "rank", "propensity", "is_exploration"]),
        assignments=pd.DataFrame(assignments, columns=["decision_id", "experiment", "arm", "version"]),
    )
