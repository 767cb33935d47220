"""Parquet and CSV files of any size as DuckDB relations."""

# ruff: noqa: S608  every name and text in the SQL goes through tabular.quoted and tabular.literal
from __future__ import annotations

import codecs
import glob
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from feature_repo.drafts import scratch_folder
from feature_repo.errors import LongtailError

Report = Callable[[str, float], None]  # a step's name and how much of it is done, 0 to 1

_PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".csv.zst")
_NO_QUOTE = "(empty)"  # in DuckDB's sniff_csv
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class DataError(LongtailError):
    """What was given cannot be taken as data."""


@dataclass(frozen=True, kw_only=True)
class Relation:
    """Something to scan: `sql` stands after FROM, `columns` maps names to DuckDB types."""

    sql: str
    columns: Mapping[str, str]
    origin: str  # for people

    def column(self, name: str) -> str:
        """The quoted column of that name, whatever its case. Raises DataError that names what exists."""
        matches = [column for column in self.columns if column == name] or [
            column for column in self.columns if column.lower() == name.lower()
        ]
        if len(matches) != 1:
            raise DataError(f"{self.origin} has no column {name!r}; it has {', '.join(self.columns)}")
        return quoted(matches[0])

    def type_of(self, name: str) -> str:
        """The DuckDB type of a column."""
        return self.columns[self.column(name)[1:-1].replace('""', '"')]


def silent(_step: str, _fraction: float) -> None:
    """Reports to nobody."""


def bare_name(file_name: str) -> str:
    """Without the ending that says how the file is written."""
    endings = [ending for ending in _PARQUET + _CSV if file_name.lower().endswith(ending)]
    return file_name[: -len(max(endings, key=len))] if endings else file_name


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """An SQL string."""
    return "'" + value.replace("'", "''") + "'"


@contextmanager
def scratch_database(directory: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB in memory; what does not fit goes below `directory`, and is removed at the end."""
    with scratch_folder(directory) as folder:
        con = duckdb.connect()
        try:
            con.execute(f"SET temp_directory = {literal(str(folder))}")
            con.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = true; SET enable_progress_bar_print = false")
            yield con
        finally:
            con.close()


def open_files(con: duckdb.DuckDBPyConnection, pattern: str) -> Relation:
    """The Parquet or CSV file, all such files of a folder, or all that match a glob, as one relation."""
    files = _find_files(pattern)
    kinds = {_kind(file) for file in files}
    if len(kinds) != 1:
        raise DataError(f"{pattern} mixes Parquet and CSV files; import them one kind at a time")
    kind = kinds.pop()
    if kind == "csv" and not any(file.stat().st_size for file in files):
        raise DataError(f"{pattern} is empty; there is nothing to import")
    sql = _parquet_sql(files) if kind == "parquet" else _csv_sql(con, files)
    try:
        described = con.execute(f"DESCRIBE SELECT * FROM {sql}").fetchall()
    except duckdb.Error as error:
        text = "UTF-8 text with one header line, one kind of line end and no line over 2 MB"
        hint = "is it Parquet?" if kind == "parquet" else f"is it {text}?"
        raise DataError(f"{pattern} cannot be read as {kind.upper()}: {_first_line(error)}; {hint}") from error
    return Relation(sql=sql, columns={row[0]: row[1] for row in described}, origin=pattern)


def run(con: duckdb.DuckDBPyConnection, sql: str, parameters: Mapping[str, Any], *, step: str, report: Report) -> None:
    """Executes a long statement and reports its progress. DuckDB's errors come out as DataError."""
    failures: list[Exception] = []

    def execute() -> None:
        try:
            con.execute(sql, dict(parameters)).fetchall()
        except duckdb.Error as error:
            failures.append(error)

    worker = threading.Thread(target=execute, name="duckdb")
    worker.start()
    while worker.is_alive():
        worker.join(0.2)
        report(step, max(con.query_progress(), 0.0) / 100)
    if failures:
        raise DataError(f"cannot {step}: {_first_line(failures[0])}") from failures[0]
    report(step, 1.0)


def _parquet_sql(files: list[Path]) -> str:
    return f"read_parquet([{', '.join(literal(str(file)) for file in files)}], union_by_name = true)"


def _csv_sql(con: duckdb.DuckDBPyConnection, files: list[Path]) -> str:
    """Text only: a bad value is refused row by row later, and a malformed line is kept in reject_errors."""
    options = "header = true, all_varchar = true, store_rejects = true, rejects_limit = 0"
    scans = [f"SELECT * FROM read_csv({literal(str(file))}, {options}{_late_quotes(con, file)})" for file in files]
    return f"({' UNION ALL BY NAME '.join(scans)})"  # one scan each: DuckDB keeps no rejects of a union_by_name


def _late_quotes(con: duckdb.DuckDBPyConnection, file: Path) -> str:
    """Options for quotes that first come after the lines from which DuckDB tells how a file is written."""
    try:
        if _sniffed_quotes(con, file) != (_NO_QUOTE, _NO_QUOTE) or not _has_quotation_mark(con, file):
            return ""
        quote, escape = _sniffed_quotes(con, file, sample_size=-1)  # all lines: dear, so only where it matters
    except duckdb.Error:  # what is wrong with the file, reading it tells
        return ""
    if quote == _NO_QUOTE:
        return ""
    return f", quote = {literal(quote)}, escape = {literal('' if escape == _NO_QUOTE else escape)}"


def _sniffed_quotes(con: duckdb.DuckDBPyConnection, file: Path, sample_size: int = 20_480) -> tuple[str, str]:
    options = f"header = true, all_varchar = true, ignore_errors = true, sample_size = {sample_size}"
    ((quote, escape),) = con.execute(f"SELECT Quote, Escape FROM sniff_csv({literal(str(file))}, {options})").fetchall()
    return quote, escape


def _has_quotation_mark(con: duckdb.DuckDBPyConnection, file: Path) -> bool:
    options = "columns = {line: 'VARCHAR'}, delim = '\x01', quote = '', escape = '', auto_detect = false"
    lines = f"read_csv({literal(str(file))}, {options}, strict_mode = false, ignore_errors = true)"
    return bool(con.execute(f"SELECT 1 FROM {lines} WHERE contains(line, '\"') LIMIT 1").fetchall())


def _find_files(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.name.lower().endswith(_PARQUET + _CSV))
        if not found:
            raise DataError(f"{pattern} is a folder without a file of {', '.join(_PARQUET + _CSV)}")
        return found
    found = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file())  # noqa: PTH207  absolute too
    if not found:
        raise DataError(f"there is no file, folder or match for {pattern!r}; is the path right?")
    return found


def _kind(file: Path) -> str:
    if file.name.lower().endswith(_PARQUET):
        return "parquet"
    with file.open("rb") as opened:
        start = opened.read(4)
    if start.startswith(_UTF_16):
        raise DataError(f"{file} is UTF-16; give UTF-8, such as from `iconv -f UTF-16 -t UTF-8`")
    if file.name.lower().endswith(_CSV):
        return "csv"
    if start == b"PAR1":
        return "parquet"
    raise DataError(
        f"{file} is neither Parquet nor CSV by its name; its name must end in one of {', '.join(_PARQUET + _CSV)}"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
