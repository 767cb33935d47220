from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from feature_repo.contract import NEIGHBOR_LENGTH
from feature_repo.events import Event
from feature_repo.settings import FeatureSettings
from feature_repo.tables.neighbors import SHRINKAGE, item_neighbors
from tests.feature_repo.test_views import SETTINGS, at, events_table, items_table, rows_of
from tests.feature_repo.world import NOW, event


def neighbors(
    events: Sequence[Event], items: Sequence[dict[str, Any]] = (), settings: FeatureSettings = SETTINGS
) -> dict[str, dict[str, Any]]:
    rows = rows_of(item_neighbors(events_table(events), items_table(items), NOW, settings))
    return {row["item_id"]: row for row in rows}


def engaged(user: str, *items: str) -> list[Event]:
    return [
        event(f"{user}{item}", user_id=user, item_id=item, event_time=at(1 + place)) for place, item in enumerate(items)
    ]


def test_items_of_the_same_users_are_neighbours_by_shrunk_cosine() -> None:
    rows = neighbors([*engaged("a", "i1", "i2"), *engaged("b", "i1", "i2"), *engaged("c", "i1", "i3")])
    assert rows["i1"]["neighbor_item_ids"] == ["i2", "i3"]
    share = 1 / 2**0.5  # of each user, who has two items
    cosines = [2 / 6**0.5, 1 / 3**0.5]
    norms = [6**0.5 * share, 3**0.5 * share]
    expected = [c * n / (n + SHRINKAGE) for c, n in zip(cosines, norms, strict=True)]
    assert rows["i1"]["neighbor_scores"] == pytest.approx(expected, rel=1e-5)
    assert rows["i3"]["neighbor_item_ids"] == ["i1"]


def test_exposures_returns_and_later_events_bind_nothing() -> None:
    log = [
        event("a", item_id="i1"),
        event("b", item_id="i2", event_type="exposure"),
        event("c", item_id="i3", event_type="return"),
        event("d", item_id="i4", event_time=NOW),
    ]
    rows = neighbors(log)
    assert [row["neighbor_item_ids"] for row in rows.values()] == [[]] * 3


def test_only_a_users_last_items_count() -> None:
    rows = neighbors(engaged("a", "i1", "i2", "i3"), settings=FeatureSettings(neighbor_history=2))
    assert rows["i1"]["neighbor_item_ids"] == ["i2"]
    assert rows["i3"]["neighbor_item_ids"] == []


def test_a_new_item_has_neighbours_of_like_content_in_any_script() -> None:
    catalogue: list[dict[str, Any]] = [
        {"item_id": "new", "title": "Red woollen HAT", "categories": ["hats"]},
        {"item_id": "hat", "title": "blue woollen hat", "categories": ["hats"]},
        {"item_id": "tea", "title": "緑茶 お茶", "categories": ["tea"]},
        {"item_id": "茶", "title": "緑茶", "text": "tea", "categories": ["tea"]},
        {"item_id": "blank"},
    ]
    rows = neighbors([], catalogue)
    assert rows["new"]["content_item_ids"] == ["hat"]
    assert rows["tea"]["content_item_ids"] == ["茶"]
    assert rows["blank"]["content_item_ids"] == []
    assert 0 < rows["new"]["content_scores"][0] <= 1
    assert rows["new"]["neighbor_item_ids"] == []


def test_a_word_of_every_item_binds_none_and_the_same_text_is_nearest() -> None:
    catalogue = [{"item_id": f"i{n}", "title": f"shop word{n // 2} {'extra' * n}"} for n in range(6)]
    rows = neighbors([], catalogue)
    assert rows["i0"]["content_item_ids"] == ["i1"]


def test_lists_are_bounded() -> None:
    rows = neighbors(engaged("a", *[f"i{n:03}" for n in range(80)]), settings=FeatureSettings(neighbor_history=80))
    assert {len(row["neighbor_item_ids"]) for row in rows.values()} == {NEIGHBOR_LENGTH}
