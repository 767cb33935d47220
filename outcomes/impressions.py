"""Every item shown, with what it was shown for and what came of it: training data for the next model.

Two things bend such data, and both are in the row. What was shown was chosen: `propensity` is the logged probability
that the item stood at its place, `weight` its inverse, cut. What stood further down was seen less: `examination` is
the outcome rate of its rank among items that exploration put there by a draw, relative to the best such rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.decisions.impressions import schema_of
from outcomes.attribution import DAY_S, Attribution
from outcomes.errors import OutcomeError

PRIOR_SHOWINGS: Final = 20.0  # a rank's rate is drawn to that of all drawn items as if by so many more


@dataclass(frozen=True, kw_only=True)
class Impressions:
    """`rows` are those of `feature_repo.decisions.impressions`. `not_due` are left out: their window has not ended."""

    rows: pa.Table
    not_due: int


def impressions_of(
    attribution: Attribution, *, window_days: float, until_unix_s: float, most_weight: float
) -> Impressions:
    """`until_unix_s` is the end of the event log: a label is known only where the window ended before it.

    Raises OutcomeError when nothing was shown.
    """
    shown = attribution.shown
    if shown.empty:
        raise OutcomeError("no item was shown in these decisions; rank through a gateway first")
    is_due = shown["shown_unix_s"] + window_days * DAY_S <= until_unix_s
    due = shown[is_due].sort_values(["at_unix_s", "decision_id", "rank"], kind="stable")
    label = (due["outcomes"] > 0).to_numpy(bool)
    values = {
        **{name: due[name] for name in ("decision_id", "user_id", "state", "item_id", "campaign_id", "policy_version")},
        **{name: due[name] for name in ("is_exploration", "propensity", "contact_propensity", "outcomes")},
        "rank": due["rank"].astype("int32"),
        "decided_at": _moment(due["at_unix_s"]),
        "shown_at": _moment(due["shown_unix_s"]),
        "weight": np.minimum(1.0 / np.maximum(due["propensity"].to_numpy(np.float64), 1e-12), most_weight),
        "examination": due["rank"].map(_examination(due, label)).astype(np.float64),
        "label": label,
        "first_outcome_at": _moment(due["first_outcome_unix_s"]),
    }
    schema = schema_of(window_days)
    arrays = [pa.array(values[name], schema.field(name).type, from_pandas=True) for name in schema.names]
    return Impressions(rows=pa.table(arrays, schema=schema), not_due=int((~is_due).sum()))


def write(impressions: Impressions, file: Path) -> None:
    """Replaces the file once it is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.unfinished")
    pq.write_table(impressions.rows, unfinished, compression="zstd")
    unfinished.replace(file)


def _examination(shown: pd.DataFrame, label: np.ndarray) -> dict[int, float]:
    """By rank, from items that a draw put there: of those alone the rank says nothing of how good the item is."""
    drawn = shown["is_exploration"].to_numpy(bool)
    if not drawn.any() or not label[drawn].any():
        return {}
    rate = label[drawn].mean()
    by_rank = pd.Series(label[drawn].astype(np.float64)).groupby(shown["rank"].to_numpy()[drawn]).agg(["sum", "size"])
    smoothed = (by_rank["sum"] + PRIOR_SHOWINGS * rate) / (by_rank["size"] + PRIOR_SHOWINGS)
    relative: dict[int, float] = (smoothed / smoothed.max()).to_dict()
    return relative


def _moment(unix_s: pd.Series) -> pd.Series:
    return pd.to_datetime((unix_s * 1e6).round(), unit="us", utc=True)
