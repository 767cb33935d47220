"""The decision log as this package reads it: the one place here that knows how decisions lie on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from outcomes.errors import OutcomeError

DECISION_COLUMNS = (
    "decision_id",
    "at_unix_s",
    "user_id",
    "decision",  # "show", "hold_out" or "suppressed"
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
    """Raises OutcomeError for an empty log, or a line before the last of a file that is no decision."""
    last: dict[str, dict[str, Any]] = {}
    for path in sorted(directory.glob("*.jsonl")):
        for row in _lines(path):
            last[row["decision_id"]] = row
    if not last:
        raise OutcomeError(f"there is no decision in {directory}; rank through a gateway first")
    return _frames(list(last.values()))


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().splitlines()
    rows = []
    for place, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if place < len(lines):  # the last may be torn by a crash
                raise OutcomeError(f"{path}:{place} is no decision; move the file away to read the rest") from error
    return rows


def _frames(rows: list[dict[str, Any]]) -> Decisions:
    decisions = pd.DataFrame(
        {
            "decision_id": [row["decision_id"] for row in rows],
            "at_unix_s": [datetime.fromisoformat(row["at"]).timestamp() for row in rows],
            **{name: [row.get(name, "") for row in rows] for name in ("user_id", "campaign_id", "state", "channel")},
            "decision": [row.get("decision", "show") for row in rows],
            "policy_version": [row.get("policy_version", "") for row in rows],
        }
    )[list(DECISION_COLUMNS)]
    shown = [
        (row["decision_id"], item["item_id"], item["rank"], item["propensity"], item["is_exploration"])
        for row in rows
        for item in row["items"]
    ]
    assignments = [(row["decision_id"], row["experiment"], row["arm"], row["policy_version"]) for row in rows]
    return Decisions(
        decisions=decisions,
        shown=pd.DataFrame(shown, columns=["decision_id", "item_id", "rank", "propensity", "is_exploration"]),
        assignments=pd.DataFrame(assignments, columns=["decision_id", "experiment", "arm", "version"]),
    )
