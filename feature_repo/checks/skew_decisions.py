"""Training-serving skew of decisions: what the model was told of users, as logged, beside what the event log gives.

The rows that serving read are recounted at their own times, which the decision log tells by their ages, and what came
of them at the decision's moment is made by the functions that serving uses. `aged` compares with a recount at the
decision's own moment, which is what training sees: rows grow older between two builds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from feature_repo.checks.recount import Recount, recount
from feature_repo.checks.skew import MODEL_INPUT, model_inputs
from feature_repo.checks.skew_tally import Cells, FeatureSkew, Pair, compare
from feature_repo.contract import MODEL_USER_FEATURES, USER_ACTIVITY, USER_BEHAVIOR
from feature_repo.decisions import records
from feature_repo.layout import StateDir
from feature_repo.lifecycle import state_at, with_seen
from feature_repo.online.packed_lists import times
from feature_repo.settings import FeatureSettings, LifecycleSettings
from feature_repo.tabular import DataError, Report, silent
from feature_repo.transforms import USER_FEATURE_COLUMNS

SETTLE: Final = timedelta(seconds=5)  # a row may not have had an event that is younger
NAMES: Final = (*MODEL_USER_FEATURES, "history_length", "state", "days_in_state")

_COLUMNS: Final = (
    "at_unix_s",
    "user_id",
    "features",
    "degraded",
    "history_length",
    "state",
    "days_in_state",
    "user_features",
)


@dataclass(frozen=True, kw_only=True)
class DecisionSkew:
    """Of the newest `decisions`, those `left_out` by reason; `aged` differ from the decision's own moment only."""

    decisions: int
    left_out: Mapping[str, int]
    features: tuple[FeatureSkew, ...]
    aged: tuple[FeatureSkew, ...]

    @property
    def skewed(self) -> tuple[FeatureSkew, ...]:
        return tuple(one for one in self.features if one.unequal)


@dataclass(frozen=True, kw_only=True)
class _Decision:
    user_id: str
    at: datetime
    activity_at: datetime
    behavior_at: datetime | None  # None: no row
    served: Cells


def measure_decisions(
    state: StateDir, settings: FeatureSettings, *, count: int, report: Report = silent
) -> DecisionSkew:
    """Compares the newest `count` decisions. Raises DataError when none can be."""
    found = _newest(state, count)
    left_out: Counter[str] = Counter()
    usable = list(_usable(found, left_out))
    asked = {(one.user_id, moment) for one in usable for moment in (one.at, one.activity_at, one.behavior_at) if moment}
    past = recount(state, settings, sorted(asked), report) if usable else Recount(rows={}, first_seen={})
    settled = [one for one in usable if not _is_unsettled(one, past)]
    if len(settled) < len(usable):
        left_out[f"within {SETTLE.total_seconds():g} s of an event of the user"] += len(usable) - len(settled)
    lifecycle = settings.lifecycle
    same = [_pair(one, past, one.activity_at, one.behavior_at, lifecycle) for one in settled]
    own = [_pair(one, past, one.at, one.at, lifecycle) for one in settled]
    return DecisionSkew(
        decisions=len(found),
        left_out=left_out,
        features=tuple(compare(MODEL_INPUT, NAMES, same)),
        aged=tuple(one for one in compare(MODEL_INPUT, NAMES, own) if one.unequal),
    )


def _newest(state: StateDir, count: int) -> list[dict[str, Any]]:
    log = records.read(state.decisions, columns=_COLUMNS)
    rows: list[dict[str, Any]] = log.sort_by("at_unix_s").slice(max(0, len(log) - count)).to_pylist()
    if not rows:
        raise DataError(f"there is no decision in {state.decisions}; they come with the first answers of a gateway")
    return rows


def _usable(rows: Sequence[Mapping[str, Any]], left_out: Counter[str]) -> Iterator[_Decision]:
    for row in rows:
        groups = {one["group"]: one for one in row["features"]}
        if not row["user_id"]:
            left_out["of nobody known"] += 1
        elif row["user_features"] is None:
            left_out["without the model's input on record"] += 1
        elif any(one.startswith("features") for one in row["degraded"]):
            left_out["while the store did not answer"] += 1
        elif groups[USER_ACTIVITY.name]["age_s"] is None:
            left_out["of users without a row yet"] += 1
        else:
            at = datetime.fromtimestamp(row["at_unix_s"], UTC)
            activity_at = _row_time(at, groups[USER_ACTIVITY.name]["age_s"])
            assert activity_at is not None
            yield _Decision(
                user_id=row["user_id"],
                at=at,
                activity_at=activity_at,
                behavior_at=_row_time(at, groups[USER_BEHAVIOR.name]["age_s"]),
                served={
                    **dict(zip(MODEL_USER_FEATURES, row["user_features"], strict=True)),
                    **{name: row[name] for name in ("history_length", "state", "days_in_state")},
                },
            )


def _row_time(at: datetime, age_s: float | None) -> datetime | None:
    """Rows are of whole seconds; one that is of the second to come was read with what was known."""
    if age_s is None:
        return None
    if age_s == 0:
        return at
    return datetime.fromtimestamp(round(at.timestamp() - age_s), UTC)


def _is_unsettled(one: _Decision, past: Recount) -> bool:
    row = past.row(USER_ACTIVITY, one.user_id, one.activity_at)
    last = None if row is None else row["last_seen_unix_s"]
    return isinstance(last, int) and one.activity_at.timestamp() - last < SETTLE.total_seconds()


def _pair(
    one: _Decision, past: Recount, activity_at: datetime, behavior_at: datetime | None, lifecycle: LifecycleSettings
) -> Pair:
    """The log's side as serving makes it: the activity row, with what the history knows of later."""
    activity = past.row(USER_ACTIVITY, one.user_id, activity_at)
    behavior = None if behavior_at is None else past.row(USER_BEHAVIOR, one.user_id, behavior_at)
    if activity is None:
        return Pair(entity_id=one.user_id, at=one.at, served=one.served, offline=None)
    gaps = [] if behavior is None else behavior["history_gaps_s"]
    assert isinstance(gaps, list)
    history = times([int(gap) for gap in gaps])
    last = activity["last_seen_unix_s"]
    seen = [each for each in history if not isinstance(last, int) or each > last]
    known, now = with_seen(activity, seen, settings=lifecycle), one.at.timestamp()
    state, days_in_state = state_at(known, now_unix_s=now, settings=lifecycle)
    (inputs,) = model_inputs([{name: known[name] for name in USER_FEATURE_COLUMNS}], [now])
    offline = {**inputs, "history_length": len(history), "state": str(state), "days_in_state": days_in_state}
    return Pair(entity_id=one.user_id, at=one.at, served=one.served, offline=offline)
