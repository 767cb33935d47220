"""What a campaign decided by a draw, and what came of it: the examples from which a contact's effect is learnt.

Intention to treat: a user counts for what was decided, whether or not the contact was sent or read. What is known of
the user stands on events before the UTC day of the decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from feature_repo.decisions import records
from feature_repo.lifecycle import DAY_S
from training.returns.examples import Floats, ReturnsReader

_COLUMNS: Final = ("at_unix_s", "user_id", "decision", "campaign_id", "contact_propensity")


@dataclass(frozen=True, kw_only=True)
class Trials:
    """One row a user and campaign, of decisions whose horizon has ended. All are [trials]."""

    user_id: npt.NDArray[np.object_]
    features: Floats  # [trials, FEATURES]
    is_treated: npt.NDArray[np.bool_]
    propensity: Floats  # the probability of being treated, as it was drawn
    came: Floats  # 1 for a visit within the horizon of the decision
    not_due: int = 0  # decisions whose horizon the log does not reach

    def __len__(self) -> int:
        return len(self.user_id)


def read_trials(reader: ReturnsReader, directory: Path, *, horizon_days: float, until: datetime) -> Trials:
    """The trials of every campaign in the decision log; none where there is no log, or no holdout.

    `until` is the end of the event log. A decision with propensity 0 or 1 was no draw and teaches nothing.
    """
    decided = _first_decisions(directory)
    due = decided["at_unix_s"] + horizon_days * DAY_S <= until.timestamp()
    drawn = decided[due & decided["contact_propensity"].between(0, 1, inclusive="neither")]
    parts = [
        _on_day(reader, day * DAY_S, rows, horizon_days=horizon_days, until=until)
        for day, rows in drawn.groupby(drawn["at_unix_s"] // DAY_S)
    ]
    frame = pd.concat([_EMPTY, *parts], ignore_index=True) if parts else _EMPTY
    features = np.stack(frame["features"].to_list()) if len(frame) else np.empty((0, 0))
    return Trials(
        user_id=frame["user_id"].to_numpy(object),
        features=features.astype(np.float64),
        is_treated=frame["is_treated"].to_numpy(bool),
        propensity=frame["contact_propensity"].to_numpy(np.float64),
        came=frame["came"].to_numpy(np.float64),
        not_due=int((~due).sum()),
    )


_EMPTY: Final = pd.DataFrame({name: [] for name in ("user_id", "features", "is_treated", "contact_propensity", "came")})


def _first_decisions(directory: Path) -> pd.DataFrame:
    """Of each user in each campaign. A suppressed user was never drawn for."""
    logged: pd.DataFrame = records.read(directory, columns=_COLUMNS).to_pandas()
    named = logged[(logged["campaign_id"] != "") & (logged["user_id"] != "") & (logged["decision"] != "suppressed")]
    return named.sort_values("at_unix_s", kind="stable").drop_duplicates(["user_id", "campaign_id"])


def _on_day(
    reader: ReturnsReader, day_s: float, rows: pd.DataFrame, *, horizon_days: float, until: datetime
) -> pd.DataFrame:
    """The decisions of one UTC day with what was known of their users as it began."""
    known = reader.at(datetime.fromtimestamp(day_s, UTC), horizon_days=horizon_days, until=until)
    places = pd.Series(np.arange(len(known)), index=known.user_id)
    rows = rows[rows["user_id"].isin(places.index)]
    return pd.DataFrame(
        {
            "user_id": rows["user_id"],
            "features": list(known.features[places[rows["user_id"]].to_numpy()]),
            "is_treated": rows["decision"] == "show",
            "contact_propensity": rows["contact_propensity"],
            "came": reader.came_within(rows["user_id"], rows["at_unix_s"], timedelta(days=horizon_days)),
        }
    )
