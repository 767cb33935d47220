"""`longtail ope` on a mapped log and on our own."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from cli.main import app
from feature_repo.decisions.lines import EMPTY_LINE
from feature_repo.errors import LongtailError
from feature_repo.events import Event
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog

Run = Callable[..., str]
NOW = datetime(2026, 3, 1, tzinfo=UTC)
MAP = ["--map", "item=what", "--map", "reward=hit", "--map", "propensity=p", "--map", "place=at"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["--state-dir", "state", "ope", *words])
        if isinstance(result.exception, LongtailError):
            return str(result.exception)
        return result.output

    return run


@pytest.fixture
def bandit(tmp_path: Path) -> None:
    """Items a and b, evenly, at two places; a pays one time in two, b never."""
    rows = [("ab"[n % 2], n % 4 in (0,), 0.5, n // 4 % 2, "x" if n < 4000 else "y") for n in range(4400)]
    pd.DataFrame(rows, columns=["what", "hit", "p", "at", "who"]).to_parquet(tmp_path / "log.parquet")
    pd.DataFrame({"item": ["a", "b"], "probability": [1.0, 0.0]}).to_csv(tmp_path / "policy.csv", index=False)


def test_a_mapped_log_gives_all_four_estimators(run: Run, bandit: None, tmp_path: Path) -> None:
    assert "DR" in run("--log", "log.parquet", *MAP, "--target", "policy.csv", "--where", "who=x", "--json", "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["rounds"] == 4000
    assert found["unsupported_mass"] == 0
    assert {name: round(one["value"], 2) for name, one in found["estimates"].items()} == {
        "IPS": 0.5,
        "SNIPS": 0.5,
        "DM": pytest.approx(0.47, abs=0.02),
        "DR": 0.5,
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--log", "none.parquet", *MAP, "--target", "policy.csv"], "is the path right"),
        (["--log", "log.parquet", *MAP[:4], "--target", "policy.csv"], "missing propensity"),
        (["--log", "log.parquet", *MAP, "--map", "colour=what", "--target", "policy.csv"], "unknown colour"),
        (["--log", "log.parquet", *MAP], "give the other policy once"),
        (["--log", "log.parquet", *MAP, "--target", "policy.csv", "--where", "who"], "give COLUMN=VALUE"),
        (["--log", "log.parquet", *MAP, "--map", "target=q"], "has no column 'q'; it has what, hit, p, at, who"),
        (["--log", "log.parquet", *MAP, "--target", "half.csv"], "add up to 0.5"),
        (["--log", "log.parquet", *MAP, "--target", "beyond.csv"], "30.0% of what the policy would show was never"),
        (["--log", "log.parquet", "--map", "reward", "--target", "policy.csv"], "give NAME=COLUMN"),
        ([], "there is no decision in"),
    ],
)
def test_a_wrong_question_is_answered_with_how_to_mend_it(
    run: Run, bandit: None, tmp_path: Path, words: list[str], said: str
) -> None:
    (tmp_path / "half.csv").write_text("item,probability\na,0.5\n")
    (tmp_path / "beyond.csv").write_text("item,probability\na,0.7\nnever,0.3\n")
    assert said in " ".join(run(*words).split())


def test_our_own_log_is_joined_with_its_outcomes(run: Run, tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.decisions.mkdir(parents=True)
    items = [{"item_id": "a", "rank": 1, "score": 0, "value": 1, "propensity": 1.0, "is_exploration": False}]
    items = [item | {"source": "popular"} for item in items]
    experiments = [{"layer": "l", "name": "x", "arm": "y", "version": "1"}]
    common = {**EMPTY_LINE, "at_unix_s": NOW.timestamp(), "items": items, "experiments": experiments}
    lines = [{**common, "decision_id": f"d{n}", "user_id": f"u{n}"} for n in range(200)]
    torn = "\n".join(map(json.dumps, lines)) + '\n{"decision_id": "torn'
    (state.decisions / "1.jsonl").write_text(torn)
    at = NOW + timedelta(hours=1)
    clicks = [
        Event(event_id=f"e{n}", user_id=f"u{n}", item_id="a", event_type="click", event_time=at) for n in range(50)
    ]
    EventLog(state.events).append(clicks)
    assert "50 attributed" in run("--target", "greedy", "--json", str(tmp_path / "out.json"))
    assert json.loads((tmp_path / "out.json").read_text())["estimates"]["IPS"]["value"] == 0.25
    assert "the event log has click" in run("--outcome", "purchase")
    assert "give greedy, logged, or a file" in run("--target", "gredy")
