"""Request-time transforms: rows of the store and a moment → the model's inputs. Training and serving both call them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feature_repo.contract import HISTORY_LENGTH, MODEL_USER_FEATURES

DAY_S = 86_400.0

# Columns of `user_activity` that `user_features` reads.
USER_FEATURE_COLUMNS = (
    "events",
    "active_days",
    "mean_gap_days",
    "visits_7d",
    "visits_28d",
    "visits_90d",
    "last_seen_unix_s",
    "first_seen_unix_s",
)


def user_features(
    columns: Mapping[str, npt.NDArray[np.float64]], *, now_unix_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """The model's dense user input, in the order of `contract.MODEL_USER_FEATURES`; NaN is missing.

    Args:
        columns: `USER_FEATURE_COLUMNS` of `user_activity`, each float64 [batch], NaN where there is no row or value.
        now_unix_s: the moment of each row, float64 [batch].

    Returns: float32 [batch, features].

    >>> row = dict.fromkeys(USER_FEATURE_COLUMNS, np.array([0.0]))
    >>> row["last_seen_unix_s"] = np.array([86_400.0])
    >>> user_features(row, now_unix_s=np.array([3 * 86_400.0]))[0, -2:].tolist()
    [2.0, 3.0]
    """
    derived = {
        "log_events": np.log1p(columns["events"]),
        "log_active_days": np.log1p(columns["active_days"]),
        "mean_gap_days": columns["mean_gap_days"],
        "visits_7d": columns["visits_7d"],
        "visits_28d": columns["visits_28d"],
        "visits_90d": columns["visits_90d"],
        "days_since_last_seen": _days_before(columns["last_seen_unix_s"], now_unix_s),
        "days_since_first_seen": _days_before(columns["first_seen_unix_s"], now_unix_s),
    }
    return np.stack([derived[name] for name in MODEL_USER_FEATURES], axis=1).astype(np.float32)  # [batch, features]


@dataclass(frozen=True, kw_only=True)
class HistoryArrays:
    """The model's sequence inputs, newest first, padded at the end with "" and 0."""

    item_ids: npt.NDArray[np.str_]  # [batch, history]
    event_types: npt.NDArray[np.str_]  # [batch, history]
    age_s: npt.NDArray[np.float32]  # [batch, history]


def history_arrays(
    item_ids: Sequence[Sequence[str]],
    event_types: Sequence[Sequence[str]],
    unix_s: Sequence[Sequence[int]],
    *,
    now_unix_s: Sequence[float],
    length: int = HISTORY_LENGTH,
) -> HistoryArrays:
    """The lists of `user_behavior`, cut or padded to `length`. Ages are 0 at least: clocks differ."""
    shape = (len(item_ids), length)
    items = np.full(shape, "", dtype=object)
    types = np.full(shape, "", dtype=object)
    age_s = np.zeros(shape, dtype=np.float32)
    for row, now in enumerate(now_unix_s):
        known = min(len(item_ids[row]), length)
        items[row, :known] = item_ids[row][:known]
        types[row, :known] = event_types[row][:known]
        age_s[row, :known] = np.maximum(now - np.asarray(unix_s[row][:known], dtype=np.float64), 0.0)
    return HistoryArrays(item_ids=items, event_types=types, age_s=age_s)


def _days_before(
    unix_s: npt.NDArray[np.float64], now_unix_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:  # [batch]
    return np.maximum(now_unix_s - unix_s, 0.0) / DAY_S
