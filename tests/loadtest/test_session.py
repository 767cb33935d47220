"""The whole load test, against a real gRPC server whose answers are known."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest import profiles, samples, session
from loadtest.errors import LoadTestError
from loadtest.plan import Plan
from loadtest.report import Report
from tests.loadtest.fixed_gateway import SLOW_S

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.loadtest.fixed_gateway"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def run(address: str, directory: Path, *, user_ids: list[str] | None = None, **overrides: Any) -> Report:
    fields = {"duration_s": 2.0, "warmup_s": 0.0, "rate_per_s": 40.0, **overrides}
    users_file = None
    if user_ids:
        users_file = directory / "users.txt"
        users_file.write_text("\n".join(user_ids))
    plan = Plan(
        profile_name="smoke",
        profile=profiles.load("smoke", overrides=fields),
        address=address,
        seed=7,
        user_ids_file=users_file,
    )
    return session.run(plan, directory / "out")


ONLY_RANKING_KNOWN_USERS = {"users": {"unseen": 0}, "requests": {"user_state": 0}}


def test_requests_are_told_apart_by_the_state_that_was_answered(address: str, tmp_path: Path) -> None:
    result = run(address, tmp_path)
    by_name = {row.name: row for row in result.summary.states}
    assert {"RankItems[new]", "RankItems[active]", "RankItems[dormant]"} <= set(by_name)
    assert by_name["RankItems[dormant]"].degraded_share == 1.0
    assert by_name["RankItems[active]"].degraded_share == 0.0
    assert result.summary.total.errors == {}
    assert {stage.name: stage.p50_ms for stage in result.summary.stages} == {"features": 1.5, "score": 2.5}
    assert 40 < result.summary.total.requests < 120  # 80 due
    assert not result.passed  # too many degraded answers


def test_the_same_seed_makes_the_same_requests_at_the_same_moments(address: str, tmp_path: Path) -> None:
    made = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        run(address, tmp_path / name, duration_s=1.0)
        rows = samples.read(tmp_path / name / "out" / "samples.csv")
        made.append(sorted((round(row.due_s, 4), row.rpc, row.user_kind, row.state) for row in rows))
    assert made[0] == made[1]


def test_refusals_are_counted_by_code(address: str, tmp_path: Path) -> None:
    result = run(address, tmp_path, user_ids=["refused-1"], duration_s=1.0, **ONLY_RANKING_KNOWN_USERS)
    assert result.summary.total.errors == {"RESOURCE_EXHAUSTED": result.summary.total.requests}
    assert [row.name for row in result.summary.states] == ["RankItems[no answer]"]
    assert not result.passed


def test_a_request_past_its_deadline_is_an_error(address: str, tmp_path: Path) -> None:
    result = run(
        address, tmp_path, user_ids=["slow-2"], duration_s=1.0, timeout_ms=SLOW_S * 300, **ONLY_RANKING_KNOWN_USERS
    )
    assert result.summary.rpcs[0].errors == {"DEADLINE_EXCEEDED": result.summary.rpcs[0].requests}


def test_a_server_that_cannot_keep_up_does_not_slow_the_arrivals_down(address: str, tmp_path: Path) -> None:
    result = run(address, tmp_path, user_ids=["slow-2"], callers=1, **ONLY_RANKING_KNOWN_USERS)
    total = result.summary.total
    assert total.answered <= 2.0 / SLOW_S + 2
    assert total.requests > 40  # 80 due
    assert result.summary.not_sent == total.errors["NOT_SENT"] == total.requests - total.answered
    assert total.max_ms > 2 * result.summary.rpcs[0].service_p99_ms  # the wait for the caller is counted


def test_a_closed_loop_waits_for_each_answer(address: str, tmp_path: Path) -> None:
    result = run(address, tmp_path, user_ids=["slow-2"], callers=2, closed_loop=True, **ONLY_RANKING_KNOWN_USERS)
    assert 2 <= result.summary.total.requests <= 2 * (2.0 / SLOW_S + 2)
    assert result.summary.not_sent == 0


def test_an_address_where_nothing_listens_is_told(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(LoadTestError, match=r"nothing answers gRPC at 127.0.0.1:\d+ .*start the gateway"):
            run(f"127.0.0.1:{unused.getsockname()[1]}", tmp_path)


PROFILE = """
[brief]
rate_per_s = 30
callers = 4
duration_s = 1.5
users = { head = 1, tail = 0, unseen = 1 }
slo = { p99_ms = %s, error_rate = 0.0, degraded_share = 1.0 }
"""


def longtail(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LONGTAIL_")}
    command = [sys.executable, "-m", "cli.main", "--state-dir", str(directory / "state"), "loadtest", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60, check=False)


def test_the_command_exits_0_when_its_objectives_are_met_and_writes_the_report(address: str, tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text(PROFILE % 60_000)
    arguments = ("--profile", "brief", "--profiles-file", str(tmp_path / "profiles.toml"), "--address", address)
    done = longtail(tmp_path, *arguments, "--record-share", "0.3", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "p99_ms" in done.stdout
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert document["passed"] is True
    assert "RecordEvents" in {row["name"] for row in document["summary"]["rpcs"]}
    assert "RankItems[new]" in (tmp_path / "out" / "report.html").read_text()


def test_the_command_exits_1_when_an_objective_is_missed(address: str, tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text(PROFILE % 0.001)
    arguments = ("--profile", "brief", "--profiles-file", str(tmp_path / "profiles.toml"), "--address", address)
    done = longtail(tmp_path, *arguments)
    assert done.returncode == 1
    assert "missed" in done.stdout
    assert list((tmp_path / "state" / "loadtest").glob("brief-*/report.html"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--address", "192.0.2.1:50051"), "--allow-remote"),
        (("--profile", "none"), "no profile 'none'"),
        (("--users-from", "no-such-file"), "cannot read ids from no-such-file"),
    ],
)
def test_the_command_explains_what_it_cannot_do(
    address: str, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    done = longtail(tmp_path, "--address", address, "--profile", "smoke", *arguments)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
