from __future__ import annotations

from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.layout import StateDir
from feature_repo.log.catalogue import ItemMapping, catalogue_table, import_items
from feature_repo.log.importing import ImportSummary
from feature_repo.tabular import DataError, open_files, scratch_database
from tests.feature_repo.world import NOW


def run_import(state: Path, file: Path, **columns: str) -> ImportSummary:
    with scratch_database(state / "scratch") as con:
        mapping = ItemMapping(columns=columns)
        return import_items(StateDir(state), con, open_files(con, str(file)), mapping, source="shop", now=NOW)


def catalogue(state: Path) -> dict[str, dict[str, Any]]:
    table = catalogue_table(StateDir(state), ibis.duckdb.connect())
    return {row["item_id"]: row for row in table.to_pyarrow().to_pylist()}


def write(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n")
    return file


def test_items_come_with_their_attributes(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "sku,name,dept,about,cost,gone", "1,Hat,hats| warm ,A hat,9.5,false", "2,,,,,true")
    summary = run_import(
        tmp_path, file, item="sku", title="name", category="dept", text="about", price="cost", withdrawn="gone"
    )
    assert (summary.rows, summary.accepted) == (2, 2)
    assert catalogue(tmp_path) == {
        "1": {
            "item_id": "1",
            "title": "Hat",
            "category": "hats",
            "categories": ["hats", "warm"],
            "text": "A hat",
            "price": 9.5,
            "withdrawn": False,
        },
        "2": {
            "item_id": "2",
            "title": "",
            "category": "",
            "categories": [],
            "text": "",
            "price": None,
            "withdrawn": True,
        },
    }


def test_a_list_of_categories_is_taken_as_it_is(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [7], "c": [["a|b", "c"]]}), tmp_path / "a.parquet")
    run_import(tmp_path, tmp_path / "a.parquet", item="id", category="c")
    assert catalogue(tmp_path)["7"]["categories"] == ["a|b", "c"]


def test_a_second_import_replaces_its_items_and_keeps_the_others(tmp_path: Path) -> None:
    run_import(tmp_path, write(tmp_path / "a.csv", "id,name", "1,old", "2,stays"), item="id", title="name")
    run_import(tmp_path, write(tmp_path / "b.csv", "id,name", "1,new", "3,more"), item="id", title="name")
    assert {item: row["title"] for item, row in catalogue(tmp_path).items()} == {"1": "new", "2": "stays", "3": "more"}


def test_items_that_cannot_be_taken_are_quarantined(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "id,name", "1,first", "1,second", ",nobody", f"{'x' * 300},long")
    summary = run_import(tmp_path, file, item="id", title="name")
    assert summary.quarantined == {"duplicate": 1, "item_too_long": 1, "no_item": 1}
    assert (summary.rows, summary.accepted) == (4, 1)
    assert catalogue(tmp_path)["1"]["title"] == "first"


def test_without_a_catalogue_there_are_no_items(tmp_path: Path) -> None:
    assert catalogue(tmp_path) == {}


def test_a_mapping_without_the_item_is_refused() -> None:
    with pytest.raises(DataError, match="item=COLUMN"):
        ItemMapping(columns={"title": "name"})
    with pytest.raises(DataError, match="no field 'colour'"):
        ItemMapping(columns={"item": "id", "colour": "c"})
