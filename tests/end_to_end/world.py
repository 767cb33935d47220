"""A small shop's log as CSV: each customer has a taste, and dormant ones stopped coming months ago."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

TASTES = 3
ITEMS_PER_TASTE = 12
CUSTOMERS = 60
DORMANT_EVERY = 3  # each third customer stopped coming
EVENTS = 25


def write_log(directory: Path, *, now: datetime, seed: int = 7) -> tuple[Path, Path]:
    """orders.csv and products.csv. One order line has no customer and one is from the year 2099."""
    rng = random.Random(seed)
    orders: list[tuple[str, str, str, str]] = []
    for number in range(CUSTOMERS):
        days_ago = 150 if number % DORMANT_EVERY == 0 else 3
        last = now - timedelta(days=days_ago, hours=rng.randint(0, 12))
        shelf = [_sku(number % TASTES, item) for item in range(ITEMS_PER_TASTE)]
        for step in range(EVENTS):
            at = last - timedelta(hours=30 * (EVENTS - step) + rng.randint(0, 20))
            orders.append((f"customer-{number}", rng.choice(shelf), at.isoformat(), rng.choice(("view", "purchase"))))
    orders.append(("", _sku(0, 0), now.isoformat(), "view"))
    orders.append(("customer-0", _sku(0, 0), datetime(2099, 1, 1, tzinfo=UTC).isoformat(), "view"))
    _write(directory / "orders.csv", ("customer", "sku", "at", "action"), orders)
    products = [(_sku(t, i), f"thing {t}-{i}", f"taste {t}") for t in range(TASTES) for i in range(ITEMS_PER_TASTE)]
    _write(directory / "products.csv", ("sku", "name", "kind"), products)
    return directory / "orders.csv", directory / "products.csv"


def _sku(taste: int, item: int) -> str:
    return f"sku-{taste}-{item}"


def _write(path: Path, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
