"""Training-serving skew: the rows that serving reads beside what the event log gives for each row's own moment.

What the model gets is made of both sides by the one request-time transform.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from feature_repo.checks.recount import BUILT_ONLY, RECOUNTED, BuildRecount, recount, recount_build, sampled
from feature_repo.checks.skew_tally import Cells, FeatureSkew, Pair, compare
from feature_repo.contract import MODEL_USER_FEATURES, USER_ACTIVITY, View
from feature_repo.layout import StateDir
from feature_repo.online.materialize import loaded_until
from feature_repo.online.rows import OnlineStore, Row, online_of
from feature_repo.online.streamed import STREAMED, built_features
from feature_repo.settings import FeatureSettings
from feature_repo.tabular import Report, silent
from feature_repo.transforms import USER_FEATURE_COLUMNS, user_features

if TYPE_CHECKING:
    from feature_repo.feast_api import FeatureStore

MODEL_INPUT: Final = "user_features"

Served = Mapping[str, Mapping[str, Row]]  # by user or item, and view


@dataclass(frozen=True, kw_only=True)
class SkewReport:
    """Of the users or items `asked` for, `moved` changed while they were read, and `waiting` came after the tables last
    loaded. `notes` say what was not compared, and why.
    """

    asked: int
    moved: int
    waiting: int
    features: tuple[FeatureSkew, ...]
    notes: tuple[str, ...] = ()

    @property
    def skewed(self) -> tuple[FeatureSkew, ...]:
        return tuple(one for one in self.features if one.unequal)


def measure(
    state: StateDir,
    settings: FeatureSettings,
    store: FeatureStore,
    *,
    users: Sequence[str] = (),
    sample: int = 1000,
    report: Report = silent,
) -> SkewReport:
    """Compares the online rows of `users`, else of `sample` users of the event log, always the same ones."""
    users = list(dict.fromkeys(users)) or sampled(state, "user_id", sample)
    loaded = {view.name: loaded_until(store, view) for view in RECOUNTED}
    newest = max(loaded.values())
    online = online_of(store)
    try:
        served = read_rows(online, RECOUNTED, users)
        asked = {(user, row.event_time) for user, rows in served.items() for row in rows.values()}
        asked |= {(user, newest) for user in users}
        past = recount(state, settings, sorted(asked), report)
        tables = {loaded[view.name] for view in BUILT_ONLY}
        built = recount_build(state, settings, users, wanted=BUILT_ONLY, loaded=tables, report=report)
        again = read_rows(online, RECOUNTED, users)
    finally:
        online.close()
    still = [user for user in users if again[user] == served[user]]
    waiting = {user for user in still if not served[user] and past.first_seen.get(user, newest) >= newest}
    compared = [user for user in still if user not in waiting]

    def pair(view: View, user: str) -> Pair:
        row = served[user].get(view.name)
        at = newest if row is None else row.event_time
        values = None if row is None else row.values
        return Pair(entity_id=user, at=at, served=values, offline=past.row(view, user, at))

    pairs = {view.name: [pair(view, user) for user in compared] for view in RECOUNTED}
    features = [one for view in RECOUNTED for one in compare(view.name, STREAMED[view.name], pairs[view.name])]
    features += compare(MODEL_INPUT, MODEL_USER_FEATURES, list(map(_transformed, pairs[USER_ACTIVITY.name])))
    features += of_build(BUILT_ONLY, compared, served, built)
    return SkewReport(
        asked=len(users),
        moved=len(users) - len(still),
        waiting=len(waiting),
        features=tuple(features),
        notes=tuple(not_compared(BUILT_ONLY, built)),
    )


def model_inputs(rows: Sequence[Cells], now_unix_s: Sequence[float]) -> list[Cells]:
    """What the model gets of rows of `user_activity`, each at its moment, as training and serving both make it."""
    cells = {name: [_number(row[name]) for row in rows] for name in USER_FEATURE_COLUMNS}
    columns = {name: np.array(values, np.float64) for name, values in cells.items()}  # [rows]
    found = user_features(columns, now_unix_s=np.array(now_unix_s, np.float64))  # [rows, features]
    return [dict(zip(MODEL_USER_FEATURES, row, strict=True)) for row in found.tolist()]


def read_rows(online: OnlineStore, views: Sequence[View], ids: Sequence[str]) -> Served:
    """What serving reads."""
    found: dict[str, dict[str, Row]] = {each: {} for each in ids}
    for view in views:
        for row in online.read(view, ids):
            if row is not None:
                found[row.entity_id][view.name] = row
    return found


def _transformed(activity: Pair) -> Pair:
    now = activity.at.timestamp()
    made = (row and model_inputs([row], [now])[0] for row in (activity.served, activity.offline))
    served, offline = made
    return replace(activity, served=served, offline=offline)


def of_build(views: Sequence[View], ids: Sequence[str], served: Served, built: BuildRecount) -> Iterator[FeatureSkew]:
    """The columns that only a build changes. Who came after the build has the contract's defaults in its columns."""
    if built.as_of is None:
        return
    for view in views:
        pairs = [
            Pair(
                entity_id=each,
                at=built.as_of,
                served=served[each][view.name].values,
                offline=built.rows.get((view.name, each, built.as_of), view.defaults()),
            )
            for each in ids
            if view.name in served[each]
        ]
        yield from compare(view.name, [feature.name for feature in built_features(view)], pairs)


def not_compared(views: Sequence[View], built: BuildRecount) -> Iterator[str]:
    """The columns that `of_build` leaves out, and why."""
    if built.obstacle:
        names = [f"{view.name}.{feature.name}" for view in views for feature in built_features(view)]
        yield (
            f"not compared, for {built.obstacle}: {', '.join(names)}; run `longtail features build` and "
            "`longtail features materialize` first"
        )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
