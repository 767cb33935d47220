from __future__ import annotations

from datetime import timedelta

from feature_repo import catalogue_page
from feature_repo.contract import MODEL_USER_FEATURES, VIEWS
from feature_repo.definitions import feature_view


def test_the_catalogue_page_is_what_the_contract_says() -> None:
    assert catalogue_page.PAGE.read_text() == catalogue_page.page(), "run `python -m feature_repo.catalogue_page`"


def test_every_feature_stands_in_it_whole() -> None:
    views, inputs = catalogue_page.page().split("\n## The model's user features\n")
    for part, names, width in (
        (views, [name for view in VIEWS for name in view.feature_names()], 6),
        (inputs, list(MODEL_USER_FEATURES), 5),
    ):
        rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| `")]
        assert [row[0].strip("`") for row in rows] == names
        assert all(len(row) == width and all(row) for row in rows)


def test_a_view_says_whose_it_is_and_how_long_it_holds() -> None:
    page = catalogue_page.page()
    for view in VIEWS:
        head = page.split(f"\n## {view.name}\n")[1].split("\n", 1)[0]
        assert f"Key: `{view.entity}`. Owner: {view.owner}." in head
        assert "ttl 0" in head
    assert feature_view(VIEWS[0]).ttl == timedelta(0)
