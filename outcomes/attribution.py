"""Which outcome belongs to which shown item. Nothing vanishes: every outcome is attributed or counted by reason.

An outcome that names its decision belongs to that decision's item; one that names none, to the latest showing of the
same item to the same user. Both only within the window that opens when the item was shown: at its exposure event, or,
where the decision has none, at the decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from feature_repo.events import EXPOSURE
from outcomes.decisions import Decisions

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """`shown` is one row an item shown: user_id, state, shown_unix_s, outcomes, first_outcome_unix_s, …"""

    shown: pd.DataFrame
    counts: Mapping[str, int]  # of outcomes: attributed, or why not


@dataclass(frozen=True, kw_only=True)
class CleanEvents:
    """Each event once. A conflict is one event_id with different contents: the earliest event stands, as in the log."""

    events: pd.DataFrame
    duplicates: int
    conflicts: int


def once_each(events: pd.DataFrame) -> CleanEvents:
    """Takes event_id, user_id, item_id, event_type, unix_s, decision_id."""
    contents = ["user_id", "item_id", "event_type", "unix_s", "decision_id"]
    kinds = events.drop_duplicates(["event_id", *contents]).groupby("event_id").size()
    kept = events.sort_values(["unix_s", *contents[:3]], kind="stable").drop_duplicates("event_id")
    conflicts = int((kinds - 1).sum())
    return CleanEvents(events=kept, duplicates=len(events) - len(kept) - conflicts, conflicts=conflicts)


def attribute(log: Decisions, events: pd.DataFrame, *, outcomes: frozenset[str], window_days: float) -> Attribution:
    """`events` as in `once_each`; `outcomes` are the event types that count as success."""
    clean = once_each(events)
    shown = _shown_at(log, clean.events)
    wanted = clean.events[clean.events["event_type"].isin(outcomes)]
    named, bare = wanted[wanted["decision_id"] != ""], wanted[wanted["decision_id"] == ""]
    is_known = named["decision_id"].isin(log.decisions["decision_id"])
    by_name = named[is_known].merge(shown, on=["decision_id", "item_id"], suffixes=("", "_shown"))
    is_own = by_name["user_id"] == by_name["user_id_shown"]
    by_name, delay_s = by_name[is_own], (by_name["unix_s"] - by_name["shown_unix_s"])[is_own]
    within = (delay_s >= 0) & (delay_s <= window_days * DAY_S)
    by_touch = _last_touch(bare, shown, window_days * DAY_S)
    pairs = pd.concat([by_name[within][["showing", "unix_s"]], by_touch[["showing", "unix_s"]]])
    counts = {
        "attributed": len(pairs),
        "unknown_decision": int((~is_known).sum()),
        "not_of_the_decision": int(is_known.sum()) - len(by_name),
        "before_the_exposure": int((delay_s < 0).sum()),
        "after_the_window": int((delay_s > window_days * DAY_S).sum()),
        "without_a_showing": len(bare) - len(by_touch),
        "duplicate_events": clean.duplicates,
        "conflicting_events": clean.conflicts,
    }
    return Attribution(shown=_with_outcomes(shown, pairs), counts=counts)


def _shown_at(log: Decisions, events: pd.DataFrame) -> pd.DataFrame:
    """Items of `show` decisions; where a decision has exposures, only those exposed, from the first exposure on."""
    answered = log.decisions[log.decisions["decision"] == "show"]
    shown = log.shown.merge(answered, on="decision_id")
    exposures = events[(events["event_type"] == EXPOSURE) & (events["decision_id"] != "")]
    first = exposures.groupby(["decision_id", "item_id"])["unix_s"].min().rename("exposed_unix_s").reset_index()
    shown = shown.merge(first, on=["decision_id", "item_id"], how="left")
    has_exposures = shown["decision_id"].isin(exposures["decision_id"])
    shown = shown[~has_exposures | shown["exposed_unix_s"].notna()].reset_index(drop=True)
    shown["shown_unix_s"] = shown["exposed_unix_s"].fillna(shown["at_unix_s"])
    shown["showing"] = np.arange(len(shown))
    return shown


def _last_touch(bare: pd.DataFrame, shown: pd.DataFrame, window_s: float) -> pd.DataFrame:
    columns = ["user_id", "item_id", "shown_unix_s", "showing"]
    right = shown[columns].astype({"shown_unix_s": float}).sort_values("shown_unix_s")
    left = bare[["user_id", "item_id", "unix_s"]].astype({"unix_s": float}).sort_values("unix_s")
    if left.empty or right.empty:
        return left.assign(showing=pd.Series(dtype=np.int64)).iloc[:0]
    found = pd.merge_asof(left, right, left_on="unix_s", right_on="shown_unix_s", by=["user_id", "item_id"])
    return found[found["unix_s"] - found["shown_unix_s"] <= window_s].astype({"showing": np.int64})


def _with_outcomes(shown: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    grouped = pairs.groupby("showing")["unix_s"]
    return shown.assign(
        outcomes=shown["showing"].map(grouped.size()).fillna(0).astype(np.int64),
        first_outcome_unix_s=shown["showing"].map(grouped.min()),
    )
