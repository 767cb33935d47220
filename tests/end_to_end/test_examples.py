"""The applications under examples/: the commands of each page, run as they stand on a log of that shape."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app

EXAMPLES = Path(__file__).parents[2] / "examples"
NOW = datetime.now(UTC)
Log = tuple[str, list[dict[str, str]], str, list[dict[str, str]]]


def shop() -> Log:
    at = [(NOW - timedelta(days=days)).isoformat() for days in (200, 100, 60, 2, 1)]
    rows = [
        ("ann", "mug", at[0], "purchase", "9.5", ""),
        ("ann", "", at[1], "contact", "", "email"),
        ("bo", "mug", at[2], "view", "", ""),
        ("bo", "tea", at[2], "add_to_cart", "", ""),
        ("cy", "tea", at[3], "purchase", "4", ""),
        ("cy", "tea", at[4], "return", "4", ""),
        ("", "tea", at[4], "view", "", ""),
    ]
    names = ("customer", "sku", "at", "action", "amount", "channel")
    products = [{"sku": "mug", "name": "Blue mug", "department": "kitchen", "price": "9.5"}]
    return "shop.csv", [dict(zip(names, row, strict=True)) for row in rows], "products.csv", products


def social_feed() -> Log:
    at = [f"{(NOW - timedelta(days=days)).timestamp() * 1000:.0f}" for days in (20, 15, 7, 1)]
    rows = [
        ("ann", "p1", at[0], "like", ""),
        ("ann", "p2", at[1], "hide", ""),
        ("bo", "p1", at[2], "share", ""),
        ("bo", "", at[3], "opt_out", "push"),
        ("cy", "p2", at[3], "view", ""),
        ("cy", "p1", at[3], "exposure", "home"),
        ("", "p1", at[3], "view", ""),
    ]
    names = ("member", "post", "ts", "verb", "place")
    posts = [{"post": "p1", "headline": "Snow", "topics": "weather;north", "body": "It snows."}]
    return "feed.csv", [dict(zip(names, row, strict=True)) for row in rows], "posts.csv", posts


def courses() -> Log:
    at = [f"{NOW - timedelta(days=days):%d/%m/%Y %H:%M}" for days in (100, 70, 30, 2)]
    rows = [
        ("ann", "sql", at[0], "enrol", "", ""),
        ("ann", "sql", at[1], "lesson_done", "0.7", ""),
        ("bo", "sql", at[2], "complete", "0.9", ""),
        ("cy", "go", at[3], "view", "", ""),
        ("cy", "", at[3], "contact", "", "email"),
        ("", "go", at[3], "view", "", ""),
    ]
    names = ("learner", "course", "happened_on", "what", "score", "channel")
    catalogue = [{"course": "sql", "name": "SQL", "subjects": "data", "syllabus": "Tables and joins."}]
    return "learning.csv", [dict(zip(names, row, strict=True)) for row in rows], "courses.csv", catalogue


@pytest.mark.parametrize(
    ("log", "states"),
    [
        (shop, {"ann": "dormant", "bo": "at_risk", "cy": "new"}),
        (social_feed, {"ann": "dormant", "bo": "at_risk", "cy": "new"}),
        (courses, {"ann": "dormant", "bo": "at_risk", "cy": "new"}),
    ],
)
def test_the_commands_of_the_page_make_features(
    log: Callable[[], Log], states: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = EXAMPLES / log.__name__
    for name in ("longtail.toml", "policy.toml"):
        shutil.copy(here / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    events_file, events, items_file, items = log()
    write(Path(events_file), events)
    write(Path(items_file), items)

    block = re.search(r"```sh\n(.*?)```", (here / "README.md").read_text(), re.DOTALL)
    assert block
    told = [run(line) for line in block[1].splitlines()]

    assert f"{len(events)} rows = {len(events) - 1} accepted + 1 quarantined" in told[0]
    assert "fine" in told[2]
    users = pq.read_table("var/features/user_activity.parquet").to_pylist()
    assert {row["user_id"]: row["state"] for row in users} == states


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def run(line: str) -> str:
    command, *arguments = shlex.split(line)
    assert command == "longtail"
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output
