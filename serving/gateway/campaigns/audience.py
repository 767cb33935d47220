"""Who may be contacted, from the tables of the last build: columns of many users at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.lifecycle import DAY_S, Lifecycle
from serving.gateway.campaigns.expected_return import Outlook
from serving.gateway.domain import Floats

_ACTIVITY: Final = ("user_id", "state", "last_seen_unix_s", "tail_percentile", "p_alive", "expected_events_30d")
_RETURNS: Final = ("user_id", "p_return", "p_return_contacted", "horizon_days")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Users by what the last build knew of them; None is no limit."""

    states: frozenset[Lifecycle] = frozenset()  # empty: all
    min_tail_percentile: float | None = None
    min_days_away: float | None = None
    max_days_away: float | None = None


@dataclass(frozen=True, kw_only=True)
class Members:
    """`user_ids` [n], a pyarrow array: a million Python strings would be 80 MB."""

    user_ids: Any
    outlook: Outlook

    def are_among(self, user_ids: Collection[str]) -> np.ndarray:
        """Whether each is one of these: bool [n]."""
        those = pa.array(list(user_ids), pa.string())
        among: np.ndarray = pc.is_in(self.user_ids, value_set=those).to_numpy(zero_copy_only=False)
        return among


class ParquetAudience:
    """Reads `user_activity.parquet` and `user_returns.parquet` of a folder. Blocks for a second per million users."""

    def __init__(self, features: Path) -> None:
        self._features = features

    def named(self, user_ids: Sequence[str], *, horizons: Mapping[Lifecycle, float]) -> Members:
        """These users, known or not. Raises OSError without a build."""
        asked = pa.table({"user_id": pa.array(dict.fromkeys(user_ids), pa.string())})
        known = self._activity().filter(pc.field("user_id").isin(asked["user_id"]))
        joined = asked.join(known, "user_id", join_type="left outer")
        return self._members(joined, horizons)

    def of(self, segment: Segment, *, now_unix_s: float, horizons: Mapping[Lifecycle, float]) -> Members:
        """Those whom the segment has. Raises OSError without a build."""
        users = self._activity()
        days_away = pc.divide(pc.subtract(now_unix_s, pc.cast(users["last_seen_unix_s"], pa.float64())), DAY_S)
        limits = (
            (pc.greater_equal, users["tail_percentile"], segment.min_tail_percentile),
            (pc.greater_equal, days_away, segment.min_days_away),
            (pc.less_equal, days_away, segment.max_days_away),
        )
        is_in = pa.array(np.ones(len(users), bool))
        for holds, column, limit in limits:
            if limit is not None:
                is_in = pc.and_(is_in, pc.fill_null(holds(column, limit), False))
        if segment.states:
            is_in = pc.and_(is_in, pc.is_in(users["state"], pa.array(sorted(segment.states))))
        return self._members(users.filter(is_in), horizons)

    def _members(self, users: pa.Table, horizons: Mapping[Lifecycle, float]) -> Members:
        """`horizons` are the policy's, for users whose return no model predicted."""
        joined = users.join(self._returns(), "user_id", join_type="left outer").sort_by("user_id")
        horizon = _numbers(joined, "horizon_days")
        places = pc.fill_null(pc.index_in(joined["state"], pa.array(list(Lifecycle))), -1).to_numpy()
        days = np.array([*(horizons[state] for state in Lifecycle), horizons[Lifecycle.NEW]])[places]
        return Members(
            user_ids=joined["user_id"].combine_chunks(),
            outlook=Outlook(
                p_alive=_numbers(joined, "p_alive"),
                expected_events_30d=_numbers(joined, "expected_events_30d"),
                p_return=_numbers(joined, "p_return"),
                p_return_contacted=_numbers(joined, "p_return_contacted"),
                horizon_days=np.where(np.isfinite(horizon), horizon, days),
            ),
        )

    def _activity(self) -> pa.Table:
        return pq.read_table(self._features / "user_activity.parquet", columns=list(_ACTIVITY))

    def _returns(self) -> pa.Table:
        path = self._features / "user_returns.parquet"
        if path.exists():
            return pq.read_table(path, columns=list(_RETURNS))
        empty = {name: pa.array([], pa.float32()) for name in _RETURNS[1:]}
        return pa.table({"user_id": pa.array([], pa.string())} | empty)


def _numbers(table: pa.Table, name: str) -> Floats:
    """NaN where there is none."""
    column = pc.fill_null(pc.cast(table[name], pa.float64()), np.nan)
    numbers: Floats = column.to_numpy()
    return numbers
