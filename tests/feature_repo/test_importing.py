from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.events import Event, refusal
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.log.importing import EventMapping, ImportSummary, import_events
from feature_repo.tabular import DataError, open_files, scratch_database
from tests.feature_repo.world import NOW, event

COLUMNS = {"user": "u", "item": "i", "time": "t"}


def run_import(
    state: Path, log: Path | str, *, columns: Mapping[str, str] = COLUMNS, source: str = "shop", **mapping: Any
) -> ImportSummary:
    if "type" not in columns:
        mapping.setdefault("type_constant", "view")
    with scratch_database(state / "scratch") as con:
        relation = open_files(con, str(log))
        fields = EventMapping(columns=columns, **mapping)
        return import_events(StateDir(state), con, relation, fields, source=source, now=NOW)


def write_csv(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n")
    return file


def write_parquet(file: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), file)
    return file


def imported(state: Path, source: str = "shop") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(state / "events" / f"{source}.parquet").to_pylist()
    return found


def quarantined(summary: ImportSummary) -> list[dict[str, Any]]:
    assert summary.quarantine_file is not None
    found: list[dict[str, Any]] = pq.read_table(summary.quarantine_file).to_pylist()
    return found


def test_every_row_is_accepted_or_quarantined_with_its_reason_and_its_columns(tmp_path: Path) -> None:
    log = write_csv(
        tmp_path / "log.csv",
        "u,i,t,v,note",
        "u1,i1,2026-01-01T10:00:00Z,1.5,fine",
        ",i1,2026-01-01,,no user",
        "u1,,2026-01-01,,no item",
        "u1,i1,yesterday,,no time",
        "u1,i1,,,no time either",
        "u1,i1,2099-01-01,,future",
        "u1,i1,1969-12-31,,past",
        "u1,i1,1970-01-01,,first",
        "u1,i1,2026-01-01T10:00:00Z,1.5,again",
        f"{'x' * 257},i1,2026-01-01,,long user",
        f"u1,{'y' * 10_000},2026-01-01,,long item",
        "u1,i2,2026-01-01,cheap,bad value",
        "u1,i3,2026-01-02,,fine",
    )
    summary = run_import(tmp_path, log, columns={**COLUMNS, "value": "v"})
    assert summary.rows == 13
    assert summary.accepted == len(imported(tmp_path)) == 3
    assert summary.quarantined == {
        "no_user": 1,
        "no_item": 1,
        "bad_time": 2,
        "future_time": 1,
        "before_1970": 1,
        "duplicate": 1,
        "user_too_long": 1,
        "item_too_long": 1,
        "bad_value": 1,
    }
    rows = quarantined(summary)
    assert {row["note"]: row["quarantine_reason"] for row in rows}["again"] == "duplicate"
    assert set(rows[0]) == {"u", "i", "t", "v", "note", "quarantine_reason"}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["", "u1", "ü2", "🦆" * 64, "🦆" * 65, " "]),
            st.sampled_from(["", "i1", "日本", "x" * 256, "x" * 257]),
            st.sampled_from(["view", "add_to_cart", "", "9x", "v" * 65]),
            st.sampled_from([-86400, 0, 1_700_000_000, int(NOW.timestamp()) + 3600, 4_070_908_800]),
            st.sampled_from([None, 1.0, float("inf"), float("nan")]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_nothing_vanishes_and_what_is_accepted_is_what_the_gateway_would_accept(
    tmp_path: Path, rows: list[tuple[str, str, str, int, float | None]]
) -> None:
    users, items, types, times, values = zip(*rows, strict=True)
    log = write_parquet(tmp_path / "log.parquet", u=users, i=items, k=types, t=times, v=pa.array(values, pa.float64()))
    columns = {**COLUMNS, "type": "k", "value": "v"}
    good = {
        row
        for row in rows
        if refusal(
            Event(
                event_id="e",
                user_id=row[0],
                item_id=row[1],
                event_type=row[2],
                event_time=datetime.fromtimestamp(row[3], UTC),
                value=row[4],
            ),
            now=NOW,
        )
        is None
    }
    if not good:
        with pytest.raises(DataError, match="none of the"):
            run_import(tmp_path, log, columns=columns)
        return
    summary = run_import(tmp_path, log, columns=columns, time_format="epoch_s")
    assert summary.rows == len(rows) == summary.accepted + sum(summary.quarantined.values())
    taken = Counter((r["user_id"], r["item_id"], r["event_type"], r["value"]) for r in imported(tmp_path))
    assert summary.accepted == len(good)
    assert taken == Counter((row[0], row[1], row[2], row[4]) for row in good)


@pytest.mark.parametrize(
    ("values", "time_format", "expected"),
    [
        (["2026-01-02T03:04:05Z"], "auto", "2026-01-02T03:04:05"),
        (["2026-01-02 03:04:05.123456"], "auto", "2026-01-02T03:04:05.123456"),
        (["2026-01-02T03:04:05+02:00"], "auto", "2026-01-02T01:04:05"),
        (["2026-01-02"], "auto", "2026-01-02T00:00:00"),
        (["20260102"], "auto", "2026-01-02T00:00:00"),
        ([1_767_323_045], "auto", "2026-01-02T03:04:05"),
        ([1_767_323_045_000], "auto", "2026-01-02T03:04:05"),
        ([1_767_323_045_123_456], "auto", "2026-01-02T03:04:05.123456"),
        (["1767323045000"], "auto", "2026-01-02T03:04:05"),
        ([1_767_323_045.5], "auto", "2026-01-02T03:04:05.500000"),
        ([5], "auto", "1970-01-01T00:00:05"),
        ([datetime(2026, 1, 2, 3, 4, 5)], "auto", "2026-01-02T03:04:05"),
        ([datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)], "auto", "2026-01-02T03:04:05"),
        ([datetime(2026, 1, 2).date()], "auto", "2026-01-02T00:00:00"),
        (["02/01/2026 3:04"], "%d/%m/%Y %H:%M", "2026-01-02T03:04:00"),
        (["02/01/2026 3:04 +0100"], "%d/%m/%Y %H:%M %z", "2026-01-02T02:04:00"),
        ([5000], "epoch_ms", "1970-01-01T00:00:05"),
    ],
)
def test_times_are_read_in_every_common_form(
    tmp_path: Path, values: list[object], time_format: str, expected: str
) -> None:
    log = write_parquet(tmp_path / "log.parquet", u=["u1"], i=["i1"], t=values)
    run_import(tmp_path, log, time_format=time_format)
    (row,) = imported(tmp_path)
    assert row["event_time"] == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize("values", [[time(3, 4)], [float("inf")], [float("nan")]])
def test_times_that_are_none_are_told(tmp_path: Path, values: list[object]) -> None:
    log = write_parquet(tmp_path / "log.parquet", u=["u1"], i=["i1"], t=values)
    with pytest.raises(DataError, match=r"none of the 1 rows .*(bad|future)_time 1"):
        run_import(tmp_path, log)


def test_an_event_id_is_kept_or_made_from_what_the_event_says(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "log.csv", "u,i,t,id", "u1,i1,2026-01-01,mine", "u1,i1,2026-01-01,", "u1,i1,2026-01-02,")
    run_import(tmp_path, log, columns={**COLUMNS, "event_id": "id"})
    first = [row["event_id"] for row in imported(tmp_path)]
    run_import(tmp_path, log, columns={**COLUMNS, "event_id": "id"})
    assert [row["event_id"] for row in imported(tmp_path)] == first
    assert first[0] == "mine"
    assert len(set(first)) == 3


def test_importing_a_source_again_replaces_it_and_another_source_adds(tmp_path: Path) -> None:
    run_import(tmp_path, write_csv(tmp_path / "a.csv", "u,i,t", "u1,i1,2026-01-01", "u1,i2,2026-01-01"))
    run_import(tmp_path, write_csv(tmp_path / "b.csv", "u,i,t", "u1,i3,2026-01-01"))
    run_import(tmp_path, write_csv(tmp_path / "c.csv", "u,i,t", "u1,i4,2026-01-01"), source="other")
    assert [row["item_id"] for row in imported(tmp_path)] == ["i3"]
    assert [row["item_id"] for row in imported(tmp_path, "other")] == ["i4"]


def test_what_another_source_or_the_feedback_brought_is_a_duplicate(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "a.csv", "u,i,t,id", "u1,i1,2026-01-01,e1", "u1,i2,2026-01-01,e2", "u1,i3,2026-01-01,e3")
    EventLog(tmp_path / "events").append([event("e2")])
    run_import(
        tmp_path,
        write_csv(tmp_path / "b.csv", "u,i,t,id", "x,y,2026-01-01,e3"),
        source="other",
        columns={**COLUMNS, "event_id": "id"},
    )
    summary = run_import(tmp_path, log, columns={**COLUMNS, "event_id": "id"})
    assert (summary.accepted, summary.quarantined) == (1, {"duplicate": 2})


def test_a_number_read_as_floating_point_because_of_gaps_stays_a_whole_id(tmp_path: Path) -> None:
    log = write_parquet(tmp_path / "a.parquet", u=[17850.0, float("nan"), None], i=[1, 2, 3], t=["2026-01-01"] * 3)
    summary = run_import(tmp_path, log)
    assert [(row["user_id"], row["item_id"]) for row in imported(tmp_path)] == [("17850", "1")]
    assert summary.quarantined == {"no_user": 2}


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_quotes_that_come_late_in_a_file_are_quotes(tmp_path: Path, ending: str) -> None:
    plain = [f"u{row},i1,2026-01-01" for row in range(25_000)]
    text = "\n".join(["u,i,t", *plain, '"a, ""b""",i1,2026-01-01', '"two\nlines",i1,2026-01-01', ""]).encode()
    log = tmp_path / f"a{ending}"
    log.write_bytes(gzip.compress(text) if ending.endswith(".gz") else text)
    summary = run_import(tmp_path, log)
    assert (summary.rows, summary.accepted) == (25_002, 25_002)
    assert [row["user_id"] for row in imported(tmp_path)[-2:]] == ['a, "b"', "two\nlines"]


def test_a_quotation_mark_that_quotes_nothing_stays_as_it_is(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "a.csv", "u,i,t", 'u1,24" screen,2026-01-01', "u2,i2,2026-01-01")
    run_import(tmp_path, log)
    assert [row["item_id"] for row in imported(tmp_path)] == ['24" screen', "i2"]


def test_ids_of_bytes_are_utf_8(tmp_path: Path) -> None:
    log = write_parquet(tmp_path / "a.parquet", u=["zoë".encode(), b"\xff"], i=["i1"] * 2, t=["2026-01-01"] * 2)
    summary = run_import(tmp_path, log)
    assert [row["user_id"] for row in imported(tmp_path)] == ["zoë"]
    assert summary.quarantined == {"no_user": 1}


@pytest.mark.parametrize("user", [{"id": "u1"}, ["u1"]])
def test_a_list_or_a_record_is_no_id(tmp_path: Path, user: object) -> None:
    log = write_parquet(tmp_path / "a.parquet", u=[user], i=["i1"], t=["2026-01-01"])
    with pytest.raises(DataError, match=r"column 'u' of .* is .*; give a column of text or numbers"):
        run_import(tmp_path, log)


def test_a_quarantine_can_be_mended_and_imported(tmp_path: Path) -> None:
    first = run_import(tmp_path, write_csv(tmp_path / "a.csv", "u,i,t", "u1,i1,2026-01-01", ",i1,2026-01-01", "u2,,x"))
    assert first.quarantine_file is not None
    mended = write_parquet(
        tmp_path / "mended.parquet",
        **{**pq.read_table(first.quarantine_file).to_pydict(), "u": ["u3", "u2"], "i": ["i1", "i2"]},
    )
    second = run_import(tmp_path, mended, source="mended")
    assert (second.accepted, second.quarantined) == (1, {"bad_time": 1})
    assert [row["quarantine_reason"] for row in quarantined(second)] == ["bad_time"]


def test_a_malformed_csv_line_is_quarantined_as_it_stands(tmp_path: Path) -> None:
    log = write_csv(
        tmp_path / "a.csv", "u,i,t", "u1,i1,2026-01-01", "u2", "u3,i3,2026-01-01,extra,more", "u4,i4,2026-01-01"
    )
    summary = run_import(tmp_path, log)
    assert (summary.rows, summary.accepted, summary.quarantined) == (4, 2, {"malformed_line": 2})
    assert {row["quarantine_line"] for row in quarantined(summary)} == {"u2", "u3,i3,2026-01-01,extra,more"}


def test_a_folder_and_a_glob_are_one_log(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        write_csv(tmp_path / "in" / f"{name}.csv", "u,i,t", f"u1,{name},2026-01-01")
    assert run_import(tmp_path, tmp_path / "in").accepted == 2
    assert run_import(tmp_path, str(tmp_path / "in" / "*.csv")).accepted == 2


def test_types_in_words_become_lower_snake_case(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "a.csv", "u,i,t,k", "u1,i1,2026-01-01,Add to Cart", "u1,i1,2026-01-01,page-view")
    run_import(tmp_path, log, columns={**COLUMNS, "type": "k"})
    assert [row["event_type"] for row in imported(tmp_path)] == ["add_to_cart", "page_view"]


def test_an_original_column_may_have_any_name(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "a.csv", "reason,row,source,original", "u1,i1,2026-01-01,x", ",i1,2026-01-01,y")
    summary = run_import(tmp_path, log, columns={"user": "reason", "item": "row", "time": "source"})
    assert summary.accepted == 1
    assert quarantined(summary)[0]["original"] == "y"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.parquet", b"this is not Parquet", "cannot be read as PARQUET"),
        ("a.parquet", b"", "cannot be read as PARQUET"),
        ("a.csv", bytes(range(256)) * 40, "cannot be read as CSV"),
        ("a.xlsx", b"PK", "neither Parquet nor CSV"),
        ("a.csv", b"u,i,t\n", "no rows"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"who,what,when\na,b,2026-01-01\n", "no column 'u'; it has who, what, when"),
        ("a.csv", "u,i,t\na,b,2026-01-01\n".encode("utf-16"), "is UTF-16; give UTF-8"),
        ("a.csv", b"u,i,t\na,b,2026-01-01\r\na,b,2026-01-02\nc,d,2026-01-03\r\n", "one kind of line end"),
        ("a.csv", b"u,i,t\na,b,soon\n", "none of the 1 rows.*bad_time 1"),
    ],
)
def test_what_is_no_log_is_explained_and_changes_nothing(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    run_import(tmp_path, write_csv(tmp_path / "good.csv", "u,i,t", "u1,i1,2026-01-01"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        run_import(tmp_path, tmp_path / name)
    assert len(imported(tmp_path)) == 1
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize(
    ("columns", "mapping", "words"),
    [
        ({"user": "u"}, {}, "item, time"),
        ({**COLUMNS, "colour": "c"}, {}, "no field 'colour'"),
        (COLUMNS, {"type_constant": None}, "--type-constant view"),
        (COLUMNS, {"type_constant": "Bad Type"}, "lower_snake_case"),
        ({**COLUMNS, "type": "k"}, {"type_constant": "view"}, "not both"),
        (COLUMNS, {"time_format": "epoch"}, "--time-format is 'epoch'"),
    ],
)
def test_a_mapping_that_cannot_work_says_what_is_allowed(
    tmp_path: Path, columns: dict[str, str], mapping: dict[str, Any], words: str
) -> None:
    log = write_csv(tmp_path / "a.csv", "u,i,t,k", "u1,i1,2026-01-01,view")
    with pytest.raises(DataError, match=words):
        run_import(tmp_path, log, columns=columns, **mapping)


@pytest.mark.parametrize("source", ["", "../up", "a/b", "x" * 65])
def test_a_source_that_is_no_file_name_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError, match="--source"):
        run_import(tmp_path, write_csv(tmp_path / "a.csv", "u,i,t", "u1,i1,2026-01-01"), source=source)


@pytest.mark.parametrize("path", ["nowhere.csv", "no/*.parquet"])
def test_a_path_that_is_not_there_is_explained(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match="no file, folder or match"):
        run_import(tmp_path, tmp_path / path)


def test_a_folder_of_two_kinds_or_of_none_is_explained(tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    (tmp_path / "none").mkdir()
    write_csv(tmp_path / "mixed" / "a.csv", "u,i,t", "u1,i1,2026-01-01")
    write_parquet(tmp_path / "mixed" / "b.parquet", u=["u"])
    with pytest.raises(DataError, match="mixes"):
        run_import(tmp_path, tmp_path / "mixed")
    with pytest.raises(DataError, match="folder without"):
        run_import(tmp_path, tmp_path / "none")


def test_a_million_rows_of_one_time_go_through_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "big.parquet"
    duckdb.sql(
        f"COPY (SELECT 'u' || range % 1000 AS u, range AS i, DATE '2026-01-01' AS t FROM range(1000000)) TO '{file}'"
    )
    with scratch_database(tmp_path / "scratch") as con:
        con.execute("SET memory_limit = '200MB'")
        fields = EventMapping(columns=COLUMNS, type_constant="view")
        summary = import_events(StateDir(tmp_path), con, open_files(con, str(file)), fields, source="big", now=NOW)
    assert summary.accepted == 1_000_000


def test_progress_is_reported_up_to_the_end(tmp_path: Path) -> None:
    seen: dict[str, float] = {}
    with scratch_database(tmp_path / "scratch") as con:
        relation = open_files(con, str(write_csv(tmp_path / "a.csv", "u,i,t", "u1,i1,2026-01-01")))
        fields = EventMapping(columns=COLUMNS, type_constant="view")
        import_events(StateDir(tmp_path), con, relation, fields, source="a", now=NOW, report=seen.__setitem__)
    assert seen == {"read rows": 1.0, "check rows": 1.0, "find duplicates": 1.0}


def test_an_event_a_little_in_the_future_is_taken(tmp_path: Path) -> None:
    soon = (NOW + timedelta(hours=20)).isoformat()
    assert run_import(tmp_path, write_csv(tmp_path / "a.csv", "u,i,t", f"u1,i1,{soon}")).accepted == 1
