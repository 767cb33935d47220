"""The catalogue: what the items are. One file, `items.parquet`; an import replaces the items it brings."""

# ruff: noqa: S608  every name and text in the SQL goes through tabular.quoted and tabular.literal
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb

from feature_repo.events import MAX_ID_BYTES
from feature_repo.layout import StateDir
from feature_repo.log.importing import (
    ImportSummary,
    check_source,
    copy_atomically,
    id_expression,
    one_import,
    stage,
    text_expression,
    write_quarantine,
)
from feature_repo.tabular import DataError, Relation, Report, literal, run, silent

if TYPE_CHECKING:
    import ibis
    from ibis.backends.duckdb import Backend

COLUMNS: Final = {
    "item_id": "VARCHAR",
    "title": "VARCHAR",
    "category": "VARCHAR",
    "categories": "VARCHAR[]",
    "text": "VARCHAR",
    "price": "FLOAT",
    "withdrawn": "BOOLEAN",
}
ITEM_FIELDS: Final = ("item", "title", "category", "text", "price", "withdrawn")


def catalogue_file(state: StateDir) -> Path:
    """Where the catalogue lies."""
    return state.items / "items.parquet"


def catalogue_table(state: StateDir, con: Backend) -> ibis.Table:
    """The catalogue, without rows when there is none. `con` is DuckDB."""
    file = catalogue_file(state)
    if file.exists():
        return con.read_parquet(str(file))[list(COLUMNS)]
    import ibis

    types = {"VARCHAR": "string", "VARCHAR[]": "array<string>", "FLOAT": "float32", "BOOLEAN": "boolean"}
    schema = ibis.schema({name: types[kind] for name, kind in COLUMNS.items()})
    return con.create_table(ibis.util.gen_name("no_items"), schema=schema, temp=True)


@dataclass(frozen=True, kw_only=True)
class ItemMapping:
    """Which column holds what. A text column of several categories is cut at `category_separator`."""

    columns: Mapping[str, str]  # field of ITEM_FIELDS → the file's column
    category_separator: str = "|"

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in ITEM_FIELDS:
                raise DataError(f"--map-items has no field {name!r}; there are {', '.join(ITEM_FIELDS)}")
        if "item" not in self.columns:
            raise DataError("--map-items must name the column of the item, such as item=COLUMN")


def import_items(
    state: StateDir,
    con: duckdb.DuckDBPyConnection,
    relation: Relation,
    mapping: ItemMapping,
    *,
    source: str,
    now: datetime,
    report: Report = silent,
) -> ImportSummary:
    """Adds or replaces the items of the file; the others stay. `con` is a fresh `scratch_database`.

    Raises DataError while another import, a pruning or an erasure is at work.
    """
    check_source(source)
    stage(con, relation, _fields(relation, mapping), step="read items", report=report)
    run(con, _REFUSE, {}, step="check items", report=report)
    run(con, _REFUSE_DUPLICATES, {}, step="find duplicate items", report=report)
    stamp = now.strftime("%Y%m%dT%H%M%S%f")
    file, quarantined = write_quarantine(con, relation, state.quarantine / f"{source}-items-{stamp}.parquet")
    counted = con.execute("SELECT count(*), count(*) FILTER (reason IS NULL) FROM staged").fetchone() or (0, 0)
    rows = counted[0] + quarantined.get("malformed_line", 0)
    if counted[1] == 0:
        raise DataError(f"none of the {rows} rows of {relation.origin} is an item; look at --map-items")
    with one_import(state):
        _write(state, con)
    return ImportSummary(
        source=source, rows=rows, accepted=counted[1], quarantined=quarantined, quarantine_file=file, items=counted[1]
    )


def _write(state: StateDir, con: duckdb.DuckDBPyConnection) -> None:
    file = catalogue_file(state)
    names = ", ".join(COLUMNS)
    query = f"SELECT {names} FROM staged WHERE reason IS NULL"
    if file.exists():
        kept = f"SELECT {names} FROM read_parquet({literal(str(file))})"
        query += f" UNION ALL {kept} WHERE item_id NOT IN (SELECT item_id FROM staged WHERE reason IS NULL)"
    copy_atomically(con, f"{query} ORDER BY item_id", file)


def _fields(relation: Relation, mapping: ItemMapping) -> dict[str, str]:
    columns = mapping.columns

    def text(name: str) -> str:
        return f"coalesce({text_expression(relation, columns[name])}, '')" if name in columns else "''"

    def cast(name: str, kind: str, default: str) -> str:
        if name not in columns:
            return default
        return f"coalesce(TRY_CAST({relation.column(columns[name])} AS {kind}), {default})"

    return {
        "item_id": id_expression(relation, columns["item"]),
        "title": text("title"),
        "categories": _categories(relation, mapping),
        "category": f"coalesce(list_extract({_categories(relation, mapping)}, 1), '')",
        "text": text("text"),
        "price": cast("price", "FLOAT", "NULL::FLOAT"),
        "withdrawn": cast("withdrawn", "BOOLEAN", "false"),
    }


def _categories(relation: Relation, mapping: ItemMapping) -> str:
    if "category" not in mapping.columns:
        return "[]::VARCHAR[]"
    column = relation.column(mapping.columns["category"])
    if relation.type_of(mapping.columns["category"]).endswith("[]"):
        parts = f"coalesce(CAST({column} AS VARCHAR[]), [])"
    else:
        text = text_expression(relation, mapping.columns["category"])
        parts = f"string_split(coalesce({text}, ''), {literal(mapping.category_separator)})"
    return f"list_filter(list_transform({parts}, lambda part: trim(part)), lambda part: part <> '')"


_REFUSE: Final = f"""
    UPDATE staged SET reason = CASE
        WHEN coalesce(item_id, '') = '' THEN 'no_item'
        WHEN strlen(item_id) > {MAX_ID_BYTES} THEN 'item_too_long'
    END
"""
_REFUSE_DUPLICATES: Final = """
    UPDATE staged SET reason = 'duplicate' WHERE row IN (
        SELECT row FROM (
            SELECT row, row_number() OVER (PARTITION BY item_id ORDER BY row) AS occurrence
            FROM staged WHERE reason IS NULL
        ) WHERE occurrence > 1
    )
"""
