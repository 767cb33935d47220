"""The state that all contenders serve from: a made-up shop, brought in by the commands a person would type."""

from __future__ import annotations

import csv
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from loadtest.errors import LoadTestError

USERS: Final = 1500
ITEMS: Final = 4000
EVENTS: Final = 60_000
AWAY_SHARE: Final = 0.4  # of the users: they stopped coming months ago
DAYS: Final = 200
TRAINING: Final = {
    "LONGTAIL_TRAINING__MAX_EPOCHS": "1",
    "LONGTAIL_TRAINING__MOMENTS_PER_USER": "2",
    "LONGTAIL_TRAINING__RETRIEVE_K": "100",
}


def user_id(number: int) -> str:
    return f"user-{number}"


def item_id(number: int) -> str:
    return f"item-{number}"


def prepare(directory: Path) -> Path:
    """A state directory with features in SQLite and a published model; a later run finds it made."""
    state, made = directory / "sqlite", directory / "prepared"
    if made.exists():
        longtail(state, "features", "apply")  # views may have come since
        return state
    shutil.rmtree(state, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    events, items = write_log(directory, now=datetime.now(UTC))
    event_columns = ("user=user", "item=item", "time=at", "type=action")
    item_columns = ("item=item", "title=name", "category=kind")
    longtail(state, "data", "import", str(events), "--map", *event_columns, "--items", str(items), "--map-items",
             *item_columns)  # fmt: skip
    for step in (("features", "build"), ("features", "apply"), ("train",), ("export",), ("publish",)):
        longtail(state, *step, environ=TRAINING)
    longtail(state, "features", "materialize")
    made.touch()
    return state


def on_redis(state: Path, url: str) -> tuple[Path, dict[str, str]]:
    """The same state with its rows in that Redis, and the settings that name it."""
    copy = state.with_name("redis")
    shutil.rmtree(copy, ignore_errors=True)
    for part in ("features", "models", "items"):
        shutil.copytree(state / part, copy / part)
    settings = {"LONGTAIL_FEATURES__ONLINE_STORE": "redis", "LONGTAIL_FEATURES__REDIS_URL": url}
    longtail(copy, "features", "apply", environ=settings)
    longtail(copy, "features", "materialize", environ=settings)
    return copy, settings


def longtail(state: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> None:
    """Runs one command of the product. Raises LoadTestError with what it said last."""
    command = [sys.executable, "-P", "-m", "cli.main", "--state-dir", str(state), *arguments]
    ended = subprocess.run(command, env={**os.environ, **(environ or {})}, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise LoadTestError(f"`longtail {' '.join(arguments)}` ended with {ended.returncode}: {ended.stderr[-2000:]}")


def write_log(directory: Path, *, now: datetime, seed: int = 7) -> tuple[Path, Path]:
    """events.csv and items.csv: few users do much, many do little, and so it is with items."""
    rng = random.Random(seed)  # noqa: S311
    events, items = directory / "events.csv", directory / "items.csv"
    away_days = [rng.uniform(40, DAYS / 2) if rng.random() < AWAY_SHARE else 0.0 for _ in range(USERS)]
    with events.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("user", "item", "at", "action"))
        for number in range(EVENTS):
            user = number if number < USERS else int(USERS * rng.random() ** 2.5)
            at = now - timedelta(days=away_days[user] + rng.uniform(0.1, DAYS / 2))
            item, action = int(ITEMS * rng.random() ** 2.5), rng.choice(("view", "view", "click", "purchase"))
            lines.writerow((user_id(user), item_id(item), at.isoformat(), action))
    with items.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("item", "name", "kind"))
        lines.writerows((item_id(number), f"Thing {number}", f"kind {number % 20}") for number in range(ITEMS))
    return events, items
