from __future__ import annotations

from datetime import timedelta

from feature_repo import catalogue_page
from feature_repo.contract import VIEWS
from feature_repo.definitions import feature_view


def test_the_catalogue_page_is_what_the_contract_says() -> None:
    assert catalogue_page.PAGE.read_text() == catalogue_page.page(), "run `python -m feature_repo.catalogue_page`"


def test_every_feature_stands_in_it_whole() -> None:
    rows = [line.strip("| ").split(" | ") for line in catalogue_page.page().splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == [name for view in VIEWS for name in view.feature_names()]
    assert all(len(row) == 6 and all(row) for row in rows)


def test_a_view_says_whose_it_is_and_how_long_it_holds() -> None:
    page = catalogue_page.page()
    for view in VIEWS:
        head = page.split(f"\n## {view.name}\n")[1].split("\n", 1)[0]
        assert f"Key: `{view.entity}`. Owner: {view.owner}." in head
        assert "ttl 0" in head
    assert feature_view(VIEWS[0]).ttl == timedelta(0)
