"""`longtail report lifecycle`: states over time, moves between them, growth accounting, days in state."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from feature_repo.settings import LifecycleSettings
from outcomes import page
from outcomes.growth import Period, periods_of
from outcomes.lifecycle_history import STATES, History, history_of, median_stay_days
from outcomes.user_days import UserDays, as_date

NAMES = [state.value for state in STATES]


def report_of(visits: UserDays, settings: LifecycleSettings, *, period_days: int) -> dict[str, Any]:
    """All of it as JSON has it."""
    history = history_of(visits, settings)
    at_end = history.counts[-1] / max(int(history.counts[-1].sum()), 1)
    return {
        "first_day": as_date(history.days[0]).isoformat(),
        "last_day": as_date(history.days[-1]).isoformat(),
        "users": visits.users,
        "states": NAMES,
        "thresholds": settings.model_dump(),
        "days": [as_date(day).isoformat() for day in history.days],
        "counts": {name: history.counts[:, place].tolist() for place, name in enumerate(NAMES)},
        "shares": dict(zip(NAMES, at_end.tolist(), strict=True)),
        "transitions": [_moves(history, place) for place in range(len(NAMES) + 1)],
        "period_days": period_days,
        "growth": [_growth(period) for period in periods_of(visits, period_days=period_days)],
    }


def write(report: dict[str, Any], directory: Path) -> tuple[Path, Path]:
    figures = {"states": _states(report), "growth": _growth_figure(report)}
    return page.write(report, figures, name="lifecycle", directory=directory)


def _moves(history: History, place: int) -> dict[str, Any]:
    row = history.moves[place]
    total = int(row.sum())
    shares = row / total if total else np.zeros(len(row))
    is_state = place < len(NAMES)
    ended, ongoing = (history.spells[place], history.ongoing[place]) if is_state else (None, None)
    return {
        "from": NAMES[place] if is_state else "not seen before",
        "counts": dict(zip(NAMES, row.tolist(), strict=True)),
        "shares": dict(zip(NAMES, shares.tolist(), strict=True)),
        "user_days": total,
        "median_stay_days": None if ended is None or ongoing is None else median_stay_days(ended, ongoing),
        "stays_ended": None if ended is None else int(ended.sum()),
        "stays_ongoing": None if ongoing is None else int(ongoing.sum()),
    }


def _growth(period: Period) -> dict[str, Any]:
    row = asdict(period)
    return {"from": as_date(row.pop("first_day")).isoformat(), **row}


def _states(report: dict[str, Any]) -> Figure:
    figure, plot = page.axes(8.6, 3.6)
    days = np.array(report["days"], dtype="datetime64[D]")
    counts = [report["counts"][name] for name in NAMES]
    plot.stackplot(days, counts, labels=NAMES, colors=[page.STATE_COLOURS[name] for name in NAMES])
    plot.set_ylabel("users")
    figure.legend(loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    return figure


def _growth_figure(report: dict[str, Any]) -> Figure:
    figure, plot = page.axes(8.6, 3.2)
    rows = report["growth"]
    starts = np.array([row["from"] for row in rows], dtype="datetime64[D]")
    bottom = np.zeros(len(rows))
    width = 0.8 * report["period_days"]
    for name, colour in (("retained", "#0f766e"), ("resurrected", "#6366f1"), ("new", "#fcd34d")):
        values = np.array([row[name] for row in rows], np.float64)
        plot.bar(starts, values, width, bottom=bottom, color=colour, label=name, align="edge")
        bottom += values
    churned = -np.array([row["churned"] or 0 for row in rows], np.float64)
    plot.bar(starts, churned, width, color="#94a3b8", label="churned", align="edge")
    plot.axhline(0, color="#0f172a", linewidth=0.8)
    plot.set_ylabel("users")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure
