"""Our own decision log, joined with outcomes → rounds of off-policy evaluation.

Each place of a list is a round of its own, which is exact as long as an item's reward does not depend on its
neighbours. Places of one user are one cluster.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import pandas as pd

from outcomes.errors import OutcomeError
from outcomes.off_policy import Rounds

SUBJECT_COLUMNS = ["decision_id", "item_id", "rank"]


class Target(StrEnum):
    """Policies whose probabilities follow from the log itself."""

    LOGGED = "logged"  # what was done: its own value
    GREEDY = "greedy"  # the same values without exploration


def rounds_of(shown: pd.DataFrame, target: Target | pd.DataFrame) -> Rounds:
    """`shown` as `attribute` gives it; a table says decision_id, item_id, rank, probability.

    Without exploration each place keeps its own item, so π_e is 1 for an item that value put there and 0 for a drawn
    one. With a table, what it does not name has probability 0.
    """
    if shown.empty:
        raise OutcomeError(
            "no item was shown in these decisions; off-policy evaluation needs decisions that show items"
        )
    propensity = shown["propensity"].to_numpy(np.float64)
    if isinstance(target, pd.DataFrame):
        probability = _from_table(shown, target)
    elif target is Target.LOGGED:
        probability = propensity
    else:
        probability = (~shown["is_exploration"].to_numpy(dtype=bool)).astype(np.float64)
    unit = shown["user_id"].where(shown["user_id"] != "", shown["decision_id"])
    return Rounds(
        reward=(shown["outcomes"].to_numpy() > 0).astype(np.float64),
        propensity=propensity,
        target=probability,
        cluster=np.unique(unit.to_numpy(dtype=np.str_), return_inverse=True)[1],
    )


def _from_table(shown: pd.DataFrame, target: pd.DataFrame) -> np.ndarray:
    needed = [*SUBJECT_COLUMNS, "probability"]
    if missing := [name for name in needed if name not in target.columns]:
        raise OutcomeError(f"the policy's table lacks {', '.join(missing)}; give {', '.join(needed)}")
    if target.duplicated(SUBJECT_COLUMNS).any():
        raise OutcomeError("the policy's table names an item twice at one place of one decision; give each once")
    joined = shown.merge(target[needed], on=SUBJECT_COLUMNS, how="left")
    return joined["probability"].fillna(0.0).to_numpy(np.float64)
