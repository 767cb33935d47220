"""One load test from plan to report; the load is made by `loadtest.driver` in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from loadtest import samples, slo
from loadtest.errors import LoadTestError
from loadtest.plan import TOKEN_VARIABLE, Plan
from loadtest.report import Report
from loadtest.summary import summarize

GRACE_S: Final = 60.0  # to start, to read the ids, to drain and to write
Progress = Callable[[int, int], None]  # requests made, of them failed


def run(plan: Plan, directory: Path, *, token: str = "", progress: Progress = lambda made, failed: None) -> Report:
    """Makes the load and judges it. Leaves plan.json, samples.csv and driver.log in `directory`."""
    started_at = datetime.now(UTC)
    plan_file, samples_file, log_file = (directory / name for name in ("plan.json", "samples.csv", "driver.log"))
    directory.mkdir(parents=True, exist_ok=True)
    plan_file.write_text(plan.model_dump_json(indent=2) + "\n", "utf-8")
    limit_s = plan.profile.duration_s + plan.profile.timeout_ms / 1e3 + GRACE_S
    _drive(plan_file, samples_file, log_file, token=token, limit_s=limit_s, progress=progress)
    summary = summarize(samples.read(samples_file), duration_s=plan.profile.duration_s, warmup_s=plan.profile.warmup_s)
    return Report(
        plan=plan, started_at=started_at, summary=summary, verdicts=slo.judge(plan.profile.slo, summary.total)
    )


def _drive(
    plan_file: Path, samples_file: Path, log_file: Path, *, token: str, limit_s: float, progress: Progress
) -> None:
    command = [sys.executable, "-P", "-m", "loadtest.driver", str(plan_file), str(samples_file)]
    environ = {**os.environ, TOKEN_VARIABLE: token}
    with (
        log_file.open("w", encoding="utf-8") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environ) as process,
    ):
        watchdog = threading.Timer(limit_s, process.kill)
        watchdog.start()
        try:
            assert process.stdout
            for line in process.stdout:
                made, _, failed = line.partition(" ")
                progress(int(made), int(failed))
            code = process.wait()
        finally:
            watchdog.cancel()
            process.kill()  # nothing, when it has ended
    if code:
        raise LoadTestError(_why(code, log_file, limit_s))


def _why(code: int, log_file: Path, limit_s: float) -> str:
    told = log_file.read_text("utf-8", errors="replace").strip()
    if code == 3 and told:
        return told.splitlines()[-1]
    if code < 0:
        return f"the load test was ended by signal {-code}; its limit is {limit_s:g} s; see {log_file}"
    return f"the process that makes the load failed with exit code {code}: {told[-500:]}"
