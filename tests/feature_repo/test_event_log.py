from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ibis
import pytest

from feature_repo.errors import EventLogError
from feature_repo.events import Event
from feature_repo.log.event_log import EventLog, Position
from tests.feature_repo.world import event


def rows(log: EventLog) -> list[dict[str, object]]:
    table = log.table(ibis.duckdb.connect())
    found: list[dict[str, object]] = table.order_by("event_id").to_pyarrow().to_pylist()
    return found


def write_import(log: EventLog, directory: Path, name: str) -> None:
    log.table(ibis.duckdb.connect()).to_parquet(directory / f"{name}.parquet")


def test_an_event_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    given = event(user_id='ü\n"x', value=2.5, surface="home", decision_id="d1")
    log = EventLog(tmp_path)
    assert log.append([given]) == [True]
    assert log.read_after()[0] == [given]
    assert [Event(**row) for row in rows(log)] == [given]  # type: ignore[arg-type]


def test_an_event_id_is_written_once_within_and_across_calls(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    assert log.append([event("a"), event("b"), event("a")]) == [True, True, False]
    assert log.append([event("b"), event("c")]) == [False, True]
    assert [row["event_id"] for row in rows(log)] == ["a", "b", "c"]


def test_a_reopened_log_knows_its_ids(tmp_path: Path) -> None:
    EventLog(tmp_path).append([event("a")])
    assert EventLog(tmp_path).append([event("a"), event("b")]) == [False, True]


def test_an_imported_event_is_known_even_when_imported_after_the_log_was_opened(tmp_path: Path) -> None:
    other, log = EventLog(tmp_path / "other"), EventLog(tmp_path / "log")
    log.append([event("mine")])
    other.append([event("a"), event("b")])
    write_import(other, tmp_path / "log", "shop")
    assert log.append([event("a"), event("c")]) == [False, True]


def test_sources_that_share_an_event_give_one_row(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append([event("a"), event("b")])
    write_import(log, tmp_path, "one")
    write_import(log, tmp_path, "two")
    assert [row["event_id"] for row in rows(log)] == ["a", "b"]


def test_a_torn_last_line_is_neither_read_nor_in_the_way(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append([event("a"), event("b")])
    (segment,) = log.segment_files()
    segment.write_bytes(segment.read_bytes()[:-20])
    reopened = EventLog(tmp_path)
    read, position = reopened.read_after()
    assert [e.event_id for e in read] == ["a"]
    assert [row["event_id"] for row in rows(reopened)] == ["a"]
    assert reopened.append([event("b"), event("c")]) == [True, True]
    assert [e.event_id for e in reopened.read_after(position)[0]] == ["b", "c"]
    assert [row["event_id"] for row in rows(reopened)] == ["a", "b", "c"]


def test_a_full_disk_acknowledges_nothing_and_loses_nothing(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from feature_repo.errors import EventLogError
from feature_repo.log.event_log import EventLog
from tests.feature_repo.world import event
log = EventLog(Path(sys.argv[1]))
log.append([event("a")])
(segment,) = log.segment_files()
resource.setrlimit(resource.RLIMIT_FSIZE, (segment.stat().st_size + 40, resource.RLIM_INFINITY))
try:
    log.append([event("b"), event("c")])
except EventLogError as error:
    print("refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(log.append([event("b"), event("d")]))
print([each.event_id for each in EventLog(Path(sys.argv[1])).read_after()[0]])
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["refused", "[True, True]", "['a', 'b', 'd']"]


def test_a_damaged_line_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = EventLog(tmp_path)
    log.append([event("a"), event("b"), event("c")])
    (segment,) = log.segment_files()
    first, second, third = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(first + b"\0" * (len(second) - 1) + b"\n" + third)
    assert [e.event_id for e in EventLog(tmp_path).read_after()[0]] == ["a", "c"]
    assert f"ends at byte {len(first) + len(second)}" in caplog.text
    assert [row["event_id"] for row in rows(EventLog(tmp_path))] == ["a", "c"]
    assert EventLog(tmp_path).append([event("d")]) == [True]


def test_a_follower_reads_each_event_once_across_segments_and_restarts(tmp_path: Path) -> None:
    log = EventLog(tmp_path, segment_bytes=500)
    position, followed = Position(1, 0), []
    for number in range(20):
        log.append([event(f"e{number}")])
        if number % 3 == 0:
            read, position = EventLog(tmp_path).read_after(Position(*list(position)), limit=2)
            followed += read
    while read := log.read_after(position, limit=2)[0]:
        followed += read
        position = log.read_after(position, limit=2)[1]
    assert len(log.segment_files()) > 3
    assert [e.event_id for e in followed] == [f"e{number}" for number in range(20)]


def test_two_processes_lose_and_double_nothing(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from feature_repo.log.event_log import EventLog
from tests.feature_repo.world import event
log = EventLog(Path(sys.argv[1]), segment_bytes=4000)
print(sum(sum(log.append([event(f"shared{n}"), event(f"{sys.argv[2]}-{n}")])) for n in range(100)))
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    writers = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in ("left", "right")]
    taken = [int(writer.communicate(timeout=60)[0]) for writer in writers]
    assert sum(taken) == 300
    ids = [e.event_id for e in EventLog(tmp_path).read_after(limit=10_000)[0]]
    assert len(ids) == len(set(ids)) == 300
    assert len(rows(EventLog(tmp_path))) == 300


def test_an_empty_log_is_a_table_without_rows(tmp_path: Path) -> None:
    assert rows(EventLog(tmp_path / "nowhere")) == []


def test_a_directory_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EventLogError, match="cannot write the event log"):
        EventLog(tmp_path / "file").append([event()])
