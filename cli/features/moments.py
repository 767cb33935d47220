"""Moments and intervals as people write and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

_UNIT_S = {"day": 86_400, "h": 3600, "min": 60, "s": 1}


def read_moment(option: str, given: str) -> datetime:
    """UTC where no zone is given."""
    try:
        moment = datetime.fromisoformat(given)
    except ValueError as error:
        raise typer.BadParameter(f"{option} is {given!r}; give ISO, such as 2026-03-01 or 2026-03-01T12:00") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def read_interval(option: str, given: str) -> timedelta:
    """Such as 1d, 12h, 30min, 90s."""
    found = re.fullmatch(r"(\d+)\s*(d|h|min|s)", given.strip())
    if found is None:
        raise typer.BadParameter(f"{option} is {given!r}; give a number and d, h, min or s, such as 1d or 12h")
    try:
        return timedelta(seconds=int(found[1]) * {"d": 86_400, **_UNIT_S}[found[2]])
    except OverflowError as error:
        raise typer.BadParameter(f"{option} is {given!r}, longer than any log") from error


def age(now: datetime, moment: datetime | None) -> str:
    """In the largest unit of which it has two."""
    if moment is None:
        return "–"
    seconds = (now - moment).total_seconds()
    unit = next((unit for unit, size in _UNIT_S.items() if seconds >= 2 * size), "s")
    return f"{seconds / _UNIT_S[unit]:.0f} {unit}"
