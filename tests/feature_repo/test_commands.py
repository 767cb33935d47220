from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from cli.main import app, main
from feature_repo.errors import LongtailError

LOG = "customer,sku,at,action,amount,a b\nc1,s1,2026-01-01,view,1,x\nc2,s2,2026-01-02,purchase,2,y\n"
ITEMS = "sku,name\ns1,Hat\ns2,Shoe\n"
MAP = ["user=customer", "item=sku", "time=at", "type=action"]

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "items.csv").write_text(ITEMS)

    def run(*words: str, code: int = 0) -> Result:
        given = [str(tmp_path / word) if word.endswith(".csv") else word for word in words]
        result = CliRunner().invoke(app, ["--state-dir", str(tmp_path / "state"), *given])
        if code == 1:
            assert isinstance(result.exception, LongtailError)
        else:
            assert result.exit_code == code, result.output
        return result

    return run


@pytest.mark.parametrize(
    "words",
    [
        ["log.csv", "--map", *MAP],
        ["--map", *MAP, "--source", "shop", "log.csv"],
        ["log.csv", *(word for pair in MAP for word in ("--map", pair))],
        ["log.csv", "--map", ",".join(MAP)],
        ["log.csv", "--map=user=customer", "--map", "item=sku,time=at", "type=action"],
        ["--items", "items.csv", "--map-items", "item=sku", "title=name", "--map", *MAP, "log.csv"],
    ],
)
def test_a_mapping_may_be_written_in_every_natural_form(run: Run, words: list[str]) -> None:
    assert "events of" in run("data", "import", *words).stdout
    assert "2 rows = 2 accepted + 0 quarantined" in run("data", "import", *words).stdout


def test_a_column_may_have_spaces(run: Run, tmp_path: Path) -> None:
    run("data", "import", "log.csv", "--map", *MAP, "surface=a b")
    assert pq.read_table(tmp_path / "state/events/log.parquet")["surface"].to_pylist() == ["x", "y"]


def test_the_summary_counts_refused_rows_by_reason_and_names_the_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG + ",s1,2026-01-01,view,1,x\n")
    output = run("data", "import", "log.csv", "--map", *MAP).stdout
    assert "3 rows = 2 accepted + 1 quarantined" in output
    assert "no_user: 1" in output
    (file,) = (tmp_path / "state/quarantine").iterdir()
    assert file.name in output.replace("\n", "")


def test_files_and_globs_of_different_months_are_different_sources(run: Run, tmp_path: Path) -> None:
    for month in ("01", "02"):
        lines = LOG.replace("2026-01-", f"2026-{month}-")
        (tmp_path / month).mkdir()
        (tmp_path / month / "part.csv").write_text(lines.replace("s1", "s9"))
        (tmp_path / f"log.2026-{month}.csv").write_text(lines)
    for words in ("log.2026-01.csv", "log.2026-02.csv", str(tmp_path / "01" / "*"), str(tmp_path / "02" / "*")):
        run("data", "import", words, "--map", *MAP)
    tables = {file.stem: pq.read_metadata(file).num_rows for file in (tmp_path / "state/events").glob("*.parquet")}
    assert tables == {"log_2026-01": 2, "log_2026-02": 2, "01": 1, "02": 1}


def test_an_import_says_what_it_replaces(run: Run) -> None:
    first, again = (run("data", "import", "log.csv", "--map", *MAP).output for _ in range(2))
    assert "in place of" not in first
    assert "in place of the 2 that log had" in again


def test_types_that_count_as_engagements_by_default_are_named(run: Run, tmp_path: Path) -> None:
    assert "impression" not in run("data", "import", "log.csv", "--map", *MAP).output
    (tmp_path / "log.csv").write_text(LOG + "c3,s1,2026-01-03,Impression,,\n")
    assert "note: impression: not in features.event_weights" in run("data", "import", "log.csv", "--map", *MAP).output


def test_whole_numbers_that_were_written_with_a_fraction_are_told(run: Run, tmp_path: Path) -> None:
    assert "with .0" not in run("data", "import", "log.csv", "--map", *MAP).output
    (tmp_path / "log.csv").write_text(LOG.replace("c1", "17850.0").replace("c2", "17.0") + ",s1,2026-01-01,view,1,x\n")
    assert "note: every user id is a number with .0" in run("data", "import", "log.csv", "--map", *MAP).output


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can be longer, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "words",
    [
        ["data", "import", "log.csv", "--source", "again", "--map", *MAP, "value=amount"],
        ["data", "import", "--items", "items.csv", "--map-items", "item=sku"],
        ["data", "prune"],
    ],
)
def test_on_a_full_disk_it_says_so_and_everything_stays_as_it_was(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    run("data", "import", "log.csv", "--map", *MAP, "--items", "items.csv", "--map-items", "item=sku", "title=name")
    monkeypatch.setenv("LONGTAIL_FEATURES__RETENTION_DAYS", "1")
    state = tmp_path / "state"
    before = {file: file.read_bytes() for file in state.rglob("*") if file.is_file()}
    given = [str(tmp_path / word) if word.endswith(".csv") else word for word in words]
    monkeypatch.setattr(sys, "argv", ["longtail", "--state-dir", str(state), *given])
    with pytest.raises(SystemExit) as ended, room_for(20):
        main()
    assert ended.value.code == 1
    assert "error: cannot write" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in state.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["data", "import"], 2, "FILE"),
        (["data", "import", "log.csv", "--map", "user"], 1, "give FIELD=COLUMN"),
        (["data", "import", "log.csv", "--map", "user=a", "user=b"], 1, "names user twice"),
        (["data", "import", "log.csv", "--map", *MAP, "value=price"], 1, "it has customer, sku"),
        (["data", "fetch", "netflix"], 1, "there are ml-100k"),
        (["features", "build"], 1, "is empty"),
        (["features", "build", "--as-of", "soon"], 2, "give ISO"),
        (["features", "build", "--engine", "flink"], 2, "give duckdb"),
        (["features", "materialize"], 1, "longtail features apply"),
        (["features", "materialize", "--full", "--since", "2026-01-01"], 2, "not both"),
        (["features", "check"], 1, "longtail features apply"),
    ],
)
def test_a_wrong_call_says_how_to_mend_it(run: Run, words: list[str], code: int, says: str) -> None:
    result = run(*words, code=code)
    assert says in (str(result.exception) if code == 1 else result.output)


def test_from_a_log_to_checked_features(run: Run) -> None:
    run("data", "import", "log.csv", "--map", *MAP, "--items", "items.csv", "--map-items", "item=sku", "title=name")
    assert "user_activity: 2 rows" in run("features", "build", "--as-of", "2026-01-03T12:00+01:00").stdout
    assert "user_weights" in run("features", "apply").stdout
    assert "differ" in str(run("features", "check", code=1).exception)
    assert "item_stats: 2 of 2 rows written" in run("features", "materialize").stdout
    assert "user_activity: 2 rows offline" in run("features", "check").stdout


def test_an_incremental_build_says_what_it_did(run: Run, tmp_path: Path) -> None:
    run("data", "import", "log.csv", "--map", *MAP)
    build = ["features", "build", "--incremental", "--as-of", "2026-01-03"]
    assert "built in full: no full build went before" in run(*build).stdout
    (tmp_path / "more.csv").write_text("customer,sku,at,action\nc3,s1,2026-01-01,view\n")
    run("data", "import", "more.csv", "--map", *MAP)
    output = run(*build).stdout
    assert "1 users changed since the last build" in output
    assert "user_activity: 3 rows" in output
