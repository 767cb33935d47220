"""Users at moments, what was known of each then, and whether they came within the horizon.

Point-in-time: everything but the label stands on events strictly before the moment; BG/NBD is fitted anew at each.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from feature_repo.events import CONTACT, NOT_ACTIVITY
from feature_repo.lifecycle import DAY_S
from feature_repo.settings import FeatureSettings
from feature_repo.tables import bgnbd, views

if TYPE_CHECKING:
    import ibis

FEATURES: Final = (
    "events",
    "active_days",
    "mean_gap_days",
    "visits_7d",
    "visits_28d",
    "visits_90d",
    "days_since_last_seen",
    "days_since_first_seen",
    "days_from_first_to_last",
    "last_gap_days",
    "longest_gap_days",
    "idle_over_mean_gap",
    "mean_value",
    "last_value",
    "p_alive",
    "expected_visits",
    "p_return_bgnbd",
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """All are [examples]; `features` is [examples, FEATURES], NaN where missing."""

    user_id: npt.NDArray[np.object_]
    as_of: npt.NDArray[np.datetime64]
    features: Floats
    came: Floats  # 1 or 0 within the horizon; NaN where the log ends before it
    contacted: npt.NDArray[np.bool_]  # within the horizon
    bgnbd: Floats  # BG/NBD's own probability; NaN without a fit

    def where(self, chosen: npt.NDArray[np.bool_]) -> Examples:
        return Examples(**{name: getattr(self, name)[chosen] for name in self.__dataclass_fields__})

    def __len__(self) -> int:
        return len(self.user_id)


@dataclass(frozen=True, kw_only=True)
class ReturnsReader:
    """One event log in one DuckDB connection."""

    con: Any
    events: ibis.Table
    settings: FeatureSettings

    def span(self) -> tuple[datetime, datetime]:
        """The first and the last event."""
        row = self.con.to_pyarrow(
            self.events.agg(first=self.events.event_time.min(), last=self.events.event_time.max())
        )
        first, last = row["first"][0].as_py(), row["last"][0].as_py()
        return first, last

    def at(self, as_of: datetime, *, horizon_days: float, until: datetime) -> Examples:
        """Every user seen before `as_of`; `until` is the end of the log, beyond which no label is known."""
        return self.of(views.spine_of_all(self.events, as_of), horizon_days=horizon_days, until=until)

    def of(self, spine: ibis.Table, *, horizon_days: float, until: datetime) -> Examples:
        """The users and moments of `spine`, (user_id, as_of)."""
        activity = self.con.to_pyarrow(views.user_activity(self.events, spine, self.settings)).to_pandas()
        acts = self.con.to_pyarrow(_acts(self.events)).to_pandas()
        frame = activity.merge(self._habits(spine), on=["user_id", "as_of"], how="left")
        frame = frame[frame["active_days"] > 0].sort_values(["as_of", "user_id"], ignore_index=True)
        frame = frame.assign(**_derived(frame))
        frame = frame.assign(**_bgnbd(frame, horizon_days))
        came = _within(frame, acts[~acts["is_contact"]], horizon_days).astype(np.float64)
        is_known = _end_s(frame, horizon_days) <= until.timestamp()
        return Examples(
            user_id=frame["user_id"].to_numpy(dtype=object),
            as_of=frame["as_of"].dt.tz_convert(None).to_numpy(),
            features=frame[list(FEATURES)].to_numpy(np.float64, na_value=np.nan),
            came=np.where(is_known, came, np.nan),
            contacted=_within(frame, acts[acts["is_contact"]], horizon_days),
            bgnbd=frame["p_return_bgnbd"].to_numpy(np.float64),
        )

    def came_within(self, user_id: pd.Series, at_unix_s: pd.Series, horizon: timedelta) -> npt.NDArray[np.bool_]:
        """Whether each user has a visit from that moment on, before the horizon ends. [rows]"""
        acts = self.con.to_pyarrow(_acts(self.events)).to_pandas()
        frame = pd.DataFrame({"user_id": user_id.to_numpy(), "as_of_s": at_unix_s.to_numpy(np.float64)})
        return _within(frame, acts[~acts["is_contact"]], horizon / timedelta(days=1))

    def _habits(self, spine: ibis.Table) -> pd.DataFrame:
        """Gaps between active days, and values, before each moment."""
        import ibis
        from ibis import _

        acts = self.events.filter(self.events.event_type.notin(NOT_ACTIVITY))
        days = acts.mutate(day=acts.event_time.date()).group_by(["user_id", "day"])
        daily = days.agg(at=_.event_time.min(), value=_.value.sum())
        before = daily.day.lag().over(group_by="user_id", order_by="day")
        daily = daily.mutate(gap=daily.day.delta(before, unit="day"))
        past = spine.join(daily, [spine.user_id == daily.user_id, daily.at < spine.as_of])
        place = ibis.row_number().over(group_by=["user_id", "as_of"], order_by=ibis.desc("day"))
        rows = past.select("user_id", "as_of", "day", "gap", "value").mutate(place=place)
        known = rows.group_by(["user_id", "as_of"]).agg(
            last_gap_days=_.gap.max(where=_.place == 0),
            longest_gap_days=_.gap.max(),
            mean_value=_.value.mean(),
            last_value=_.value.max(where=_.place == 0),
        )
        frame: pd.DataFrame = self.con.to_pyarrow(known).to_pandas()
        return frame


def open_returns(directory: Any, settings: FeatureSettings) -> ReturnsReader:
    """A reader of the event log in `directory`."""
    import ibis

    from feature_repo.log.event_log import EventLog

    con = ibis.duckdb.connect()
    con.raw_sql("SET TimeZone = 'UTC'")
    events = con.create_table("events_for_returns", EventLog(directory).table(con), temp=True)
    return ReturnsReader(con=con, events=events, settings=settings)


def moments(first: datetime, last: datetime, *, horizon_days: float, most: int) -> list[datetime]:
    """Half a horizon apart, the latest whose label the log still knows; from one horizon after the first event."""
    step, horizon = timedelta(days=max(horizon_days / 2, 1)), timedelta(days=horizon_days)
    found: list[datetime] = []
    at = (last - horizon).astimezone(UTC).replace(microsecond=0)
    while at >= first + horizon and len(found) < most:
        found.append(at)
        at -= step
    return found[::-1]


def _acts(events: ibis.Table) -> ibis.Table:
    kept = events.filter(events.event_type.notin([name for name in NOT_ACTIVITY if name != CONTACT]))
    return kept.select("user_id", "event_time", is_contact=kept.event_type == CONTACT)


def _derived(frame: pd.DataFrame) -> dict[str, Any]:
    as_of_s = frame["as_of"].dt.tz_convert(None).to_numpy().astype("datetime64[us]").astype(np.int64) / 1e6
    idle = (as_of_s - frame["last_seen_unix_s"]) / DAY_S
    return {
        "as_of_s": as_of_s,
        "days_since_last_seen": idle,
        "days_since_first_seen": (as_of_s - frame["first_seen_unix_s"]) / DAY_S,
        "days_from_first_to_last": (frame["last_seen_unix_s"] - frame["first_seen_unix_s"]) / DAY_S,
        "idle_over_mean_gap": idle / frame["mean_gap_days"].astype(np.float64),
    }


def _bgnbd(frame: pd.DataFrame, horizon_days: float) -> dict[str, Any]:
    """At each moment a fit on the users known then, in whole days as in `build`."""
    first, last = frame["first_seen_unix_s"] // DAY_S, frame["last_seen_unix_s"] // DAY_S
    x = (frame["active_days"] - 1).to_numpy(np.float64)
    t_x, age = (last - first).to_numpy(np.float64), (frame["as_of_s"] // DAY_S - first).to_numpy(np.float64)
    found = {name: np.full(len(frame), np.nan) for name in ("p_alive", "expected_visits", "p_return_bgnbd")}
    for rows in frame.groupby("as_of").indices.values():
        model = bgnbd.fit(x[rows], t_x[rows], age[rows])
        if model is None:
            continue
        known = x[rows], t_x[rows], age[rows]
        found["p_alive"][rows] = model.p_alive(*known)
        found["expected_visits"][rows] = model.expected_visits(horizon_days, *known)
        found["p_return_bgnbd"][rows] = model.p_visit(horizon_days, *known)
    return found


def _end_s(frame: pd.DataFrame, horizon_days: float) -> Floats:
    return frame["as_of_s"].to_numpy(np.float64) + horizon_days * DAY_S


def _within(frame: pd.DataFrame, acts: pd.DataFrame, horizon_days: float) -> npt.NDArray[np.bool_]:
    """Whether the user has one of `acts` from the moment on, before the horizon ends. [examples]"""
    at = acts["event_time"].dt.tz_convert(None).to_numpy().astype("datetime64[us]").astype(np.int64) / 1e6
    right = pd.DataFrame({"user_id": acts["user_id"], "act_s": at}).sort_values("act_s")
    left = frame[["user_id", "as_of_s"]].assign(row=np.arange(len(frame))).sort_values("as_of_s")
    if right.empty or left.empty:
        return np.zeros(len(frame), dtype=bool)
    next_act = pd.merge_asof(left, right, left_on="as_of_s", right_on="act_s", by="user_id", direction="forward")
    came = np.zeros(len(frame), dtype=bool)
    came[next_act["row"]] = (next_act["act_s"] - next_act["as_of_s"] < horizon_days * DAY_S).to_numpy()
    return came
