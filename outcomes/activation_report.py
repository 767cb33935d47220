"""`longtail report activation`: what longtail brought back that would not have come, against who was held out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from feature_repo.events import CONTACT, OPT_OUT
from outcomes import page
from outcomes.arms import ArmWeights, Part, experiment_parts, held_out_parts
from outcomes.comparison import compare
from outcomes.decisions import Decisions
from outcomes.estimate import Estimate
from outcomes.lifecycle_history import STATES
from outcomes.returning import Visits, came_again, follow, not_yet_back, returned
from outcomes.user_days import DAY_S, as_date

AGAIN_DAYS: Final = (1, 7, 30)
CURVE_DAYS: Final = 60
VERDICTS: Final = {
    "positive": "more came back than would have",
    "negative": "fewer came back than would have",
    "not_shown": "no effect is shown",
    "too_few": "too few users or returns to tell",
    "mismatch": "the arms are not of the sizes that were drawn: do not trust the difference",
}


def report_of(
    log: Decisions,
    events: pd.DataFrame,
    visits: Visits,
    *,
    weights: ArmWeights,
    window_days: int,
    confidence: float,
) -> dict[str, Any]:
    """All of it as JSON has it. `events` as `outcomes.event_frame` reads them."""
    parts = [*held_out_parts(log), *experiment_parts(log, weights)]
    groups = {part.name: _group(part, events, visits, window_days, confidence) for part in parts}
    return {
        "window_days": window_days,
        "confidence": confidence,
        "first_decision": _date(log.decisions["at_unix_s"].min()),
        "last_decision": _date(log.decisions["at_unix_s"].max()),
        "last_day": as_date(visits.last_day).isoformat(),
        "groups": groups,
        "shown": _shown(log, events),
    }


def write(report: dict[str, Any], directory: Path) -> tuple[Path, Path]:
    figures = {"effects": _effects(report), **{f"back_{n}": f for n, f in enumerate(_curves(report))}}
    return page.write({**report, "verdicts": VERDICTS}, figures, name="activation", directory=directory)


def _group(part: Part, events: pd.DataFrame, visits: Visits, window_days: int, confidence: float) -> dict[str, Any]:
    users = follow(part.decisions, visits, window_days=window_days).users
    due = users[users["is_due"]]
    arms = {"treated": users[users["is_treated"]], "held_out": users[~users["is_treated"]]}
    whole = _comparison(due, window_days, confidence)
    return {
        "users": len(users),
        "not_due": int((~users["is_due"]).sum()),
        "suppressed": int((part.decisions["decision"] == "suppressed").sum()),
        "arms": {"treated": part.treated, "held_out": part.held_out},
        "other_versions": part.other_versions,
        "all": whole,
        "by_state": {
            state.value: _comparison(cohort, window_days, confidence)
            for state in STATES
            if len(cohort := due[due["state"] == state.value])
        },
        "back_within": {name: _back(arm, visits) for name, arm in arms.items()},
        "came_again": {
            name: {f"d{days}": came_again(arm, visits, within_days=days) for days in AGAIN_DAYS}
            for name, arm in arms.items()
        },
        "contacts": _contacts(due, events, whole, window_days),
    }


def _comparison(users: pd.DataFrame, window_days: int, confidence: float) -> dict[str, Any]:
    return compare(
        returned(users, window_days=window_days),
        users["active_days"].to_numpy(np.float64),
        users["is_treated"].to_numpy(bool),
        users["propensity"].to_numpy(np.float64),
        confidence=confidence,
    ).as_json()


def _back(arm: pd.DataFrame, visits: Visits) -> list[float]:
    """Share back within 0, 1, … days."""
    days = CURVE_DAYS if arm.empty else int(min(CURVE_DAYS, visits.last_day - arm["day"].min()))
    return [1 - share for share in not_yet_back(arm, last_day=visits.last_day, days=max(days, 1))]


def _contacts(due: pd.DataFrame, events: pd.DataFrame, whole: dict[str, Any], window_days: int) -> dict[str, Any]:
    """Contacts and opt-outs of users after their decision; contacts for one more return, where a return is shown."""
    asked = events[events["event_type"].isin([CONTACT, OPT_OUT])].merge(
        due[["user_id", "day", "is_treated"]], on="user_id"
    )
    delay = asked["unix_s"] // DAY_S - asked["day"]
    within = asked[(delay >= 0) & (delay <= window_days)]
    contacts = int(((within["event_type"] == CONTACT) & within["is_treated"]).sum())
    opted_out = within[within["event_type"] == OPT_OUT].drop_duplicates("user_id").groupby("is_treated").size()
    arms = due.groupby("is_treated").size()
    effect = Estimate(**whole["always"])
    more = None if effect.value is None else effect.value * whole["treated"]
    is_shown = whole["verdict"] == "positive"
    return {
        "contacts": contacts,
        "incremental_returns": more,
        "per_incremental_return": contacts / more if is_shown and more else None,
        "opt_out_rate": {
            name: float(opted_out.get(arm, 0) / arms[arm]) if arms.get(arm, 0) else None
            for name, arm in (("treated", True), ("held_out", False))
        },
    }


def _shown(log: Decisions, events: pd.DataFrame) -> dict[str, Any]:
    """By state: how many items were shown, and how rare they are, −log2 of the share of users who met one."""
    met = events[events["item_id"] != ""].groupby("item_id")["user_id"].nunique()
    users = max(int(events["user_id"].nunique()), 1)
    answered = log.decisions[log.decisions["decision"] == "show"]
    shown = log.shown.merge(answered[["decision_id", "state"]], on="decision_id")
    share = (shown["item_id"].map(met).fillna(0.0) + 1) / (users + 1)
    shown = shown.assign(bits=-np.log2(share))
    return {
        str(state): {
            "decisions": int(part["decision_id"].nunique()),
            "distinct_items": int(part["item_id"].nunique()),
            "novelty_bits": float(part["bits"].mean()),
            "explored": float(part["is_exploration"].mean()),
        }
        for state, part in shown.groupby("state", sort=True)
    }


def _date(unix_s: float) -> str:
    return as_date(int(unix_s // DAY_S)).isoformat()


def _effects(report: dict[str, Any]) -> Figure:
    rows = [
        (f"{name}: {state}", found["always"], found["effect"])
        for name, group in report["groups"].items()
        for state, found in [("all", group["all"]), *group["by_state"].items()]
        if found["always"]["low"] is not None
    ]
    figure, plot = page.axes(8.6, max(1.6, 0.36 * len(rows) + 0.9))
    for place, (_, always, effect) in enumerate(reversed(rows)):
        plot.plot([always["low"], always["high"]], [place, place], color="#94a3b8", linewidth=2)
        plot.plot([effect["low"], effect["high"]], [place, place], color="#0f766e", linewidth=5, alpha=0.6)
        plot.plot(effect["value"], place, "o", color="#0f172a", markersize=4)
    plot.axvline(0, color="#0f172a", linewidth=0.8)
    plot.set_yticks(range(len(rows)), [label for label, _, _ in reversed(rows)])
    plot.grid(axis="y", visible=False)
    plot.set_xlabel(f"share back within {report['window_days']} days, treated less held out")
    return figure


def _curves(report: dict[str, Any]) -> Iterator[Figure]:
    for name, group in report["groups"].items():
        figure, plot = page.axes(8.6, 3.0)
        for arm, colour in (("treated", "#0f766e"), ("held_out", "#94a3b8")):
            curve = group["back_within"][arm]
            plot.step(range(len(curve)), curve, where="post", color=colour, label=arm.replace("_", " "))
        plot.set_title(name, fontsize=10, loc="left")
        plot.set_xlabel("days since the decision")
        plot.set_ylabel("share back")
        plot.legend(frameon=False, fontsize=8)
        yield figure


def is_empty(report: dict[str, Any]) -> bool:
    """True when no user's time has run out yet."""
    return all(group["users"] == group["not_due"] for group in report["groups"].values())
