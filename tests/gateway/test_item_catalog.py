"""Item statistics in memory, and their file changing under a running gateway."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.layout import StateDir
from feature_repo.settings import FeatureSettings
from serving.gateway.domain import ItemId, Source
from serving.gateway.features.item_catalog import ParquetItemCatalog, source_path
from serving.gateway.features.item_table import ItemTable
from serving.gateway.observing.telemetry import Telemetry
from tests.gateway.fakes import item_table


def write(
    path: Path, ids: Sequence[str], *, times: Sequence[int] | None = None, novelty: Sequence[float | None] = ()
) -> None:
    count = len(ids)
    table = pa.table(
        {
            "item_id": pa.array(ids, pa.string()),
            "title": pa.array([f"Title of {item_id}" for item_id in ids], pa.string()),
            "novelty_bits": pa.array(novelty or [1.0] * count, pa.float32()),
            "popularity_percentile": pa.array([(place + 0.5) / count for place in range(count)], pa.float32()),
            "first_seen_unix_s": pa.array([None, *range(1, count)][:count], pa.int64()),
            "withdrawn": pa.array([False] * count, pa.bool_()),
            "category": pa.array(["c"] * count, pa.string()),
            "exposures": pa.array([0] * count, pa.int64()),
            "engagement_rate": pa.array([None] * count, pa.float32()),
            "event_timestamp": pa.array(times or [0] * count, pa.timestamp("us", "UTC")),
        }
    )
    draft = path.with_suffix(".draft")
    pq.write_table(table, draft)
    draft.rename(path)


def catalog(path: Path) -> ParquetItemCatalog:
    return ParquetItemCatalog(path, count=Telemetry().items)


async def test_the_file_is_read_and_read_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "item_stats.parquet"
    subject = catalog(path)
    await subject.refresh()
    assert subject.items.ids == ()  # not built yet
    write(path, ["a", "b"])
    await subject.refresh()
    first = subject.items
    assert set(first.ids) == {"a", "b"}
    await subject.refresh()
    assert subject.items is first
    write(path, ["a", "b", "c"])
    await subject.refresh()
    assert set(subject.items.ids) == {"a", "b", "c"}
    assert set(first.ids) == {"a", "b"}  # a request that holds the old table keeps it


async def test_a_file_that_is_not_parquet_leaves_the_last_good_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "item_stats.parquet"
    write(path, ["a"])
    subject = catalog(path)
    await subject.refresh()
    path.write_text("this is not Parquet")
    await subject.refresh()
    assert subject.items.ids == ("a",)
    assert "not read" in caplog.text
    write(path, ["b"])
    await subject.refresh()
    assert subject.items.ids == ("b",)


async def test_a_file_without_a_column_leaves_the_last_good_one(tmp_path: Path) -> None:
    path = tmp_path / "item_stats.parquet"
    pq.write_table(pa.table({"item_id": ["a"]}), path)
    subject = catalog(path)
    await subject.refresh()
    assert subject.items.ids == ()


async def test_an_item_with_two_rows_has_the_newer(tmp_path: Path) -> None:
    path = tmp_path / "item_stats.parquet"
    write(path, ["a", "a", "b"], times=[5, 9, 5], novelty=[1.0, 4.0, 2.0])
    subject = catalog(path)
    await subject.refresh()
    assert sorted(subject.items.ids) == ["a", "b"]
    assert subject.items.novelty[subject.items.rows([ItemId("a"), ItemId("b")])].tolist() == [1.0, 0.5]


async def test_an_empty_file_is_no_items(tmp_path: Path) -> None:
    path = tmp_path / "item_stats.parquet"
    write(path, [])
    subject = catalog(path)
    await subject.refresh()
    assert subject.items.ids == ()
    assert subject.items.top(Source.POPULAR, 10) == ()
    assert subject.items.novelty[subject.items.rows([ItemId("a")])].tolist() == [1.0]


def test_feast_says_where_the_file_is(tmp_path: Path) -> None:
    from feature_repo.online import store

    state, settings = StateDir(tmp_path), FeatureSettings()
    store.apply(state, settings)
    assert source_path(store.open_store(state, settings)) == (state.features / "item_stats.parquet").resolve()


def test_lists_are_best_first_and_without_withdrawn_items() -> None:
    table = item_table(5, withdrawn=["i00", "i04"])
    assert table.top(Source.POPULAR, 10) == ("i01", "i02", "i03")
    assert table.top(Source.FRESH, 2) == ("i03", "i02")


def test_unknown_items_are_as_novel_as_can_be_and_have_no_prior() -> None:
    ids = [ItemId("i00"), ItemId("i39"), ItemId("unknown")]
    table = item_table(40)
    assert table.novelty[table.rows(ids)].tolist() == pytest.approx([1 / 40, 1.0, 1.0])
    popularity = table.prior(Source.POPULAR, ids).tolist()
    assert popularity == sorted(popularity, reverse=True)
    assert popularity[2] == 0


@given(
    st.lists(
        st.tuples(st.none() | st.floats(0, 30), st.none() | st.floats(0, 1), st.none() | st.integers(0, 9)), max_size=8
    )
)
def test_statistics_with_holes_stay_within_their_range(
    rows: list[tuple[float | None, float | None, int | None]],
) -> None:
    ids = [ItemId(f"i{place}") for place in range(len(rows))]
    table = ItemTable.of(
        {
            "item_id": ids,
            "title": [None] * len(rows),
            "novelty_bits": [row[0] for row in rows],
            "popularity_percentile": [row[1] for row in rows],
            "first_seen_unix_s": [row[2] for row in rows],
            "withdrawn": [None] * len(rows),
        }
    )
    for values in (table.novelty[table.rows(ids)], table.prior(Source.POPULAR, ids), table.prior(Source.FRESH, ids)):
        assert ((values >= 0) & (values <= 1)).all()
        assert np.isfinite(values).all()
    assert sorted(table.top(Source.POPULAR, 99)) == sorted(ids)
