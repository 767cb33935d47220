"""What stands in for missing user features, learnt from the users' moments before a cut.

Each user counts once, with the mean x_u of the moments at which the feature is known:

    mean     m = mean of x_u
    median   median of x_u
    similar  (Σ x_u over the n users of group g + K m) / (n + K), of their moments in that group: users of a history
             about as long, drawn to all users by K of them where they are few

The group follows from the history, which every request carries, also where the user has no row of features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from feature_repo.contract import MODEL_FEATURES, ModelFeature
from feature_repo.missing_values import CONSTANT, KEEP, MEDIAN, SIMILAR, Strategy, parse

HISTORY_FROM: Final = (0, 2, 5, 10, 20, 50)  # the shortest history of each group; other ones need a new artifact.FORMAT
SHRINKAGE_USERS: Final = 20.0  # K


@dataclass(frozen=True, kw_only=True)
class FillValues:
    """Of each user feature, in the contract's order."""

    strategies: tuple[Strategy, ...]  # [F]
    values: np.ndarray  # float32 [groups, F], NaN where what is missing stays missing
    users: np.ndarray  # int64 [F], training users of whom the feature is known

    def notes(self) -> list[str]:
        """What was to be learnt and could not be."""
        return [
            f"{feature.name} is missing for all training users, so `{strategy}` has nothing to learn from; by the "
            "contract's default " + ("it stays missing" if np.isnan(value) else f"{value:g} stands in")
            for feature, strategy, users, value in zip(
                MODEL_FEATURES, self.strategies, self.users, self.values[0], strict=True
            )
            if strategy.is_learnt and not users
        ]

    def as_json(self) -> dict[str, Any]:
        """For model.json and contract.json: `fill` is null, a number, or a number for each group of users."""
        return {
            "history_length_from": list(HISTORY_FROM),
            "features": {
                feature.name: {"strategy": str(strategy), "fill": _fill_json(column), "training_users": int(users)}
                for feature, strategy, column, users in zip(
                    MODEL_FEATURES, self.strategies, self.values.T, self.users, strict=True
                )
            },
            "notes": self.notes(),
        }


def nothing_learnt() -> FillValues:
    """Of a model that was not fitted: what is missing stays missing."""
    return FillValues(
        strategies=tuple(Strategy(kind=KEEP) for _ in MODEL_FEATURES),
        values=np.full((len(HISTORY_FROM), len(MODEL_FEATURES)), np.nan, np.float32),
        users=np.zeros(len(MODEL_FEATURES), np.int64),
    )


def from_json(described: Mapping[str, Any]) -> FillValues:
    """What `as_json` gave."""
    rows = described["features"].values()
    columns = [np.broadcast_to(np.array(row["fill"], np.float32), len(HISTORY_FROM)) for row in rows]  # None is NaN
    return FillValues(
        strategies=tuple(parse(row["strategy"]) for row in rows),
        values=np.stack(columns, axis=1),
        users=np.array([row["training_users"] for row in rows], np.int64),
    )


def _fill_json(column: np.ndarray) -> float | list[float] | None:
    if np.isnan(column).any():
        return None
    return float(column[0]) if (column == column[0]).all() else column.tolist()


def strategies(overrides: Mapping[str, str]) -> tuple[Strategy, ...]:
    """Of each user feature: the contract's, or the one that is set."""
    return tuple(parse(overrides.get(feature.name, feature.missing)) for feature in MODEL_FEATURES)


def learn(
    features: np.ndarray, user: np.ndarray, history_length: np.ndarray, overrides: Mapping[str, str]
) -> FillValues:
    """From moments before a cut.

    Args:
        features: float32 [moments, F], NaN where missing; what is not finite is missing.
        user: int [moments].
        history_length: int [moments], behaviours before the moment.
        overrides: strategies by name that are not the contract's.
    """
    chosen = strategies(overrides)
    group = np.searchsorted(HISTORY_FROM, history_length, side="right") - 1
    values = np.full((len(HISTORY_FROM), len(chosen)), np.nan, np.float32)
    users = np.zeros(len(chosen), np.int64)
    for place, (feature, strategy) in enumerate(zip(MODEL_FEATURES, chosen, strict=True)):
        known = np.isfinite(features[:, place])
        users[place] = len(np.unique(user[known]))
        column = features[known, place].astype(np.float64)
        values[:, place] = _fill(feature, strategy, column, user[known], group[known])
    return FillValues(strategies=chosen, values=values, users=users)


def _fill(
    feature: ModelFeature, strategy: Strategy, values: np.ndarray, user: np.ndarray, group: np.ndarray
) -> np.ndarray | float | None:
    """Of known values [moments]: one for all groups, or float64 [groups]; None is missing."""
    if strategy.kind == KEEP:
        return None
    if strategy.kind == CONSTANT:
        return strategy.constant
    if not len(values):
        return feature.default
    everyone = _mean_of_each(values, user)
    if strategy.kind == MEDIAN:
        return float(np.median(everyone))
    overall = float(everyone.mean())
    if strategy.kind != SIMILAR:
        return overall
    groups = [_mean_of_each(values[group == one], user[group == one]) for one in range(len(HISTORY_FROM))]
    return np.array([(own.sum() + SHRINKAGE_USERS * overall) / (len(own) + SHRINKAGE_USERS) for own in groups])


def _mean_of_each(values: np.ndarray, user: np.ndarray) -> np.ndarray:
    """float64 [users with a value]."""
    count = np.bincount(user)
    return np.asarray(np.bincount(user, weights=values)[count > 0] / count[count > 0])
