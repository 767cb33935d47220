"""Which entries of a base path are versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.model_server.versions import every, find_versions, latest, specific


def test_numbers_are_versions_whatever_their_zeros(tmp_path: Path) -> None:
    for name in ("00000123", "7", "staging-9", "-3", "1.5", "²", "9223372036854775808"):
        (tmp_path / name).mkdir()
    assert {number: path.name for number, path in find_versions(tmp_path).items()} == {123: "00000123", 7: "7"}


def test_the_latest_version_is_the_greatest_number(tmp_path: Path) -> None:
    for name in ("9", "10", "20261124203500"):
        (tmp_path / name).mkdir()
    assert latest()(find_versions(tmp_path)) == {20261124203500}


def test_an_empty_base_path_has_no_version(tmp_path: Path) -> None:
    assert latest()(find_versions(tmp_path)) == frozenset()


def test_two_directories_of_one_version_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "01").mkdir()
    assert find_versions(tmp_path) == {1: tmp_path / "1"}
    assert "Duplicate version directories" in caplog.text


def test_policies_choose_among_what_is_there() -> None:
    found = {number: Path(str(number)) for number in (1, 2, 3)}
    assert latest(2)(found) == {2, 3}
    assert latest(0)(found) == {3}
    assert every(found) == {1, 2, 3}
    assert specific([1, 9])(found) == {1}
