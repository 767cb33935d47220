"""The benchmark of a version swap: what it publishes, and how it judges."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from loadtest.samples import Sample
from loadtest.swap import PUBLISHED_AT_S, Models, judge

FAST = Sample(
    due_s=5, rpc="RankItems", user_kind="tail", state="new", code="OK", degraded=False, response_ms=10, service_ms=10
)


def test_a_version_is_published_under_the_next_number_with_a_contract_of_its_own(tmp_path: Path) -> None:
    contract = tmp_path / "published" / "7" / "assets.extra" / "contract.json"
    contract.parent.mkdir(parents=True)
    contract.write_text(json.dumps({"model_version": 7, "history_length": 50}))
    (tmp_path / "served").mkdir()
    models = Models(tmp_path / "served", tmp_path / "published")
    models.publish()
    published = {
        path.name: json.loads((path / "assets.extra/contract.json").read_text()) for path in models.directory.iterdir()
    }
    assert {name: one["model_version"] for name, one in published.items()} == {"7": 7, "8": 8}


def test_what_is_asked_from_the_second_of_publishing_on_is_during() -> None:
    slow = replace(FAST, due_s=PUBLISHED_AT_S, service_ms=30)
    one = judge([FAST, slow], versions=(7, 8))
    assert (one.before_p99_ms, one.during_p99_ms, one.ratio) == (10, 30, 3)
    assert (one.asked, one.lost, one.degraded) == (2, 0, 0)


def test_what_is_lost_or_degraded_counts_whenever_it_was() -> None:
    made = [
        FAST,
        replace(FAST, due_s=0, code="UNAVAILABLE"),
        replace(FAST, due_s=PUBLISHED_AT_S + 1, degraded=True),
    ]
    one = judge(made, versions=(7, 8))
    assert (one.lost, one.degraded) == (1, 1)
