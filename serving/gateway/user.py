"""From rows of the store to the user who is ranked for, and to the model's inputs: pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from feature_repo.contract import HISTORY_LENGTH, USER_VIEWS, FeatureValue, View
from feature_repo.lifecycle import DAY_S, state_at, with_seen
from feature_repo.online.packed_lists import times, words
from feature_repo.settings import LifecycleSettings
from feature_repo.transforms import USER_FEATURE_COLUMNS, user_features
from serving.gateway.domain import (
    Behavior,
    FeatureGroup,
    FeatureGroups,
    Float32s,
    GroupStatus,
    ModelUser,
    Query,
    Row,
    Rows,
    User,
)


def feature_groups(rows: Rows | None, *, is_remembered: bool, now_unix_s: float) -> FeatureGroups:
    """One group per user view; `rows` is None when the store did not answer and nothing is remembered."""
    return {view.name: _group(view, rows, is_remembered=is_remembered, now_unix_s=now_unix_s) for view in USER_VIEWS}


def _group(view: View, rows: Rows | None, *, is_remembered: bool, now_unix_s: float) -> FeatureGroup:
    row = None if rows is None else rows.get(view.name)
    if row is None:
        status = GroupStatus.DEFAULTED if rows is None else GroupStatus.MISSING
        return FeatureGroup(name=view.name, status=status, age_s=None, values=view.defaults())
    age_s = max(now_unix_s - row.event_unix_s, 0.0)
    is_old = view.fresh_for is not None and age_s > view.fresh_for.total_seconds()
    return FeatureGroup(
        name=view.name,
        status=GroupStatus.STALE if is_old or is_remembered else GroupStatus.FRESH,
        age_s=age_s,
        values=_filled(view, row),
    )


def _filled(view: View, row: Row) -> dict[str, FeatureValue]:
    values = view.defaults()
    for name, value in row.values.items():
        if value is not None and name in values:
            values[name] = value
    return values


def describe(
    query: Query, groups: FeatureGroups, *, now_unix_s: float, lifecycle: LifecycleSettings
) -> tuple[User, Mapping[str, FeatureValue]]:
    """The user, and the activity row as of the last behaviour known, which the model's features are made of."""
    history = _newest(_history(query, groups), query, now_unix_s)
    activity = with_seen(groups["user_activity"].values, _newer(history, groups), settings=lifecycle)
    state, days_in_state = state_at(activity, now_unix_s=now_unix_s, settings=lifecycle)
    return User(
        user_id=query.user_id,
        state=state,
        days_in_state=days_in_state,
        p_alive=_number(activity["p_alive"]),
        tail_percentile=_share(activity["tail_percentile"]),
        last_seen_unix_s=_number(activity["last_seen_unix_s"]),
        history=history,
    ), activity


def _history(query: Query, groups: FeatureGroups) -> Sequence[Behavior]:
    if query.history is not None:
        return query.history
    row = groups["user_behavior"].values
    types = words(_list(row["history_type_places"]), _list(row["count_event_types"]))
    return list(map(Behavior, _list(row["history_item_ids"]), types, times(_list(row["history_gaps_s"]))))


def _newest(history: Sequence[Behavior], query: Query, now_unix_s: float) -> tuple[Behavior, ...]:
    """Newest first. A replay does not know what came after its moment; otherwise clocks may differ a little."""
    known = history if query.now_unix_s is None else [each for each in history if each.unix_s <= now_unix_s]
    return tuple(sorted(known, key=attrgetter("unix_s"), reverse=True)[:HISTORY_LENGTH])


def _newer(history: Sequence[Behavior], groups: FeatureGroups) -> list[int]:
    """Times that the activity row does not know yet."""
    last = _number(groups["user_activity"].values["last_seen_unix_s"])
    return [int(behavior.unix_s) for behavior in history if last is None or behavior.unix_s > last]


def exposures_in_vain(groups: FeatureGroups, *, now_unix_s: float, half_life_days: float) -> dict[str, float]:
    """Items shown and not engaged with since: how often, each time halved with every half-life since the last."""
    row = groups["user_contacts"].values
    columns = (_list(row["exposed_item_ids"]), _list(row["exposed_counts"]), times(_list(row["exposed_gaps_s"])))
    return {
        item_id: count * 0.5 ** (max(now_unix_s - unix_s, 0.0) / (half_life_days * DAY_S))
        for item_id, count, unix_s in zip(*columns, strict=False)
    }


def model_user(
    user: User, activity: Mapping[str, FeatureValue], groups: FeatureGroups, *, now_unix_s: float
) -> ModelUser:
    weights = groups["user_weights"].values
    delta, version = weights["delta"], weights["model_version"]
    ages = [max(now_unix_s - behavior.unix_s, 0.0) for behavior in user.history]
    return ModelUser(
        history_item_ids=tuple(behavior.item_id for behavior in user.history),
        history_event_types=tuple(behavior.event_type for behavior in user.history),
        history_age_s=np.asarray(ages, np.float32),
        user_features=_features(activity, is_known=groups["user_activity"].has_row, now_unix_s=now_unix_s),
        user_weights=np.asarray(_list(delta), np.float32),
        user_weights_version=version if isinstance(version, int) else 0,
        user_id=user.user_id,
    )


def _features(activity: Mapping[str, FeatureValue], *, is_known: bool, now_unix_s: float) -> Float32s:
    """NaN is missing, also where a default stands for want of a row."""
    seen = ("first_seen_unix_s", "last_seen_unix_s")
    values = {name: _number(activity[name]) if is_known or name in seen else None for name in USER_FEATURE_COLUMNS}
    numbers = np.array([[np.nan if value is None else value] for value in values.values()], np.float64)  # [columns, 1]
    columns = dict(zip(values, numbers, strict=True))
    features: Float32s = user_features(columns, now_unix_s=np.array([now_unix_s]))[0]  # [features]
    return features


def _list(value: FeatureValue) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: FeatureValue) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _share(value: FeatureValue) -> float:
    number = _number(value)
    return 1.0 if number is None else min(max(number, 0.0), 1.0)
