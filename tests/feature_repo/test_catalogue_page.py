from __future__ import annotations

from feature_repo import catalogue_page
from feature_repo.contract import VIEWS


def test_the_catalogue_page_is_what_the_contract_says() -> None:
    assert catalogue_page.PAGE.read_text() == catalogue_page.page(), "run `python -m feature_repo.catalogue_page`"


def test_every_feature_stands_in_it_with_a_meaning() -> None:
    rows = [line.split(" | ") for line in catalogue_page.page().splitlines() if line.startswith("| `")]
    assert [row[0].strip("|` ") for row in rows] == [name for view in VIEWS for name in view.feature_names()]
    assert all(row[4].strip("| ") for row in rows)
