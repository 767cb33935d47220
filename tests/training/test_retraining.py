"""A retraining that is ended in the middle of a step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from feature_repo.errors import LongtailError
from feature_repo.events import Event
from feature_repo.log.event_log import EventLog
from feature_repo.settings import FeatureSettings
from training.release.retraining import alone, news_since

RETRAIN = """
import sys
from cli.main import main
from cli.training import release
from training.release.retraining import News

release.COMMAND = (sys.executable, "-c", "import os, time; print('pid', os.getpid(), flush=True); time.sleep(100)")
release._news = lambda settings: News(events=1, since=None)
sys.argv = ["longtail", "--state-dir", sys.argv[1], "retrain", "--min-events", "0"]
main()
"""
Begun = tuple[subprocess.Popen[str], int]


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Begun]:
    """A retraining, and the process of its step."""
    with subprocess.Popen([sys.executable, "-c", RETRAIN, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        step = next(int(line.split()[1]) for line in process.stdout if line.startswith("pid"))
        yield process, step
        for one in (step, process.pid):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)


def test_what_was_shown_is_no_news(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    kinds = ["view", *["exposure"] * 50, "purchase"]
    EventLog(tmp_path).append(
        [
            Event(event_id=str(n), user_id="u", item_id="i", event_type=kind, event_time=now)
            for n, kind in enumerate(kinds)
        ]
    )
    assert news_since(tmp_path, None, FeatureSettings()).events == 2


def test_sigterm_takes_the_step_along(begun: Begun, tmp_path: Path) -> None:
    process, step = begun
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(step, 0)
    with alone(tmp_path / "training"):
        pass


def test_no_other_begins_beside_a_step_that_outlived_it(begun: Begun, tmp_path: Path) -> None:
    process, _ = begun
    process.kill()
    process.wait()
    with pytest.raises(LongtailError, match="another retraining is at work"), alone(tmp_path / "training"):
        pass
