"""What is there for a while does not stay: neither after an error nor after a kill."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from feature_repo.drafts import draft, scratch_folder

HOLDS_A_FOLDER = """
import sys
from pathlib import Path
from feature_repo.drafts import scratch_folder

with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "spilled").write_text("of a user")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_file_is_replaced_whole_or_stays_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "table"
    with draft(file) as unfinished:
        unfinished.write_text("first")
    with pytest.raises(ValueError, match="full"), draft(file) as unfinished:
        unfinished.write_text("sec")
        raise ValueError("full")
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_left_alone_while_its_process_lives_and_removed_once_it_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS_A_FOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        other = Path(process.stdout.readline().strip())
        with scratch_folder(tmp_path) as own:
            assert own != other
            assert (other / "spilled").exists()
        assert not own.exists()
        process.kill()
    with scratch_folder(tmp_path) as own:
        assert list(tmp_path.iterdir()) == [own]
    assert list(tmp_path.iterdir()) == []
