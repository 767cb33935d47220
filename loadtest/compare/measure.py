"""One load on one contender, and medians over rounds."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from loadtest.compare.caller import Load, Measured
from loadtest.compare.contenders import Arena
from loadtest.errors import LoadTestError
from loadtest.processes import cpu_s, resident_mb

GRACE_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One contender under one load. CPU is in ms per answered request, by process."""

    per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    degraded: int
    caller_ms: float
    gateway_ms: float
    model_ms: float
    store_ms: float
    resident_mb: float
    stages_us: dict[str, float]


def call(load: Load) -> Measured:
    """Makes the load in a process of its own."""
    with started(load) as asking:
        return result_of(asking)


def started(load: Load) -> subprocess.Popen[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as plan:
        json.dump(asdict(load), plan)
    words = (sys.executable, "-m", "loadtest.compare.caller", plan.name)
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def result_of(asking: subprocess.Popen[str]) -> Measured:
    output, _ = asking.communicate(timeout=600)
    Path(str(asking.args[-1])).unlink(missing_ok=True)  # type: ignore[index]
    if asking.returncode:
        raise LoadTestError("the caller ended with an error; it is above")
    return Measured(**json.loads(output))


def measure(arena: Arena, name: str, *, seconds: float, callers: int = 0, rate_per_s: float = 0.0, seed: int) -> Cell:
    server = arena.contenders[name]
    pids = (server.pid, arena.model_server.pid, arena.redis.pid)
    before = [cpu_s(pid) for pid in pids]
    load = Load(address=server.address, seconds=seconds, callers=callers, rate_per_s=rate_per_s, seed=seed)
    measured = call(load)
    used = [cpu_s(pid) - earlier for pid, earlier in zip(pids, before, strict=True)]
    gateway_ms, model_ms, store_ms = (1000 * each / max(measured.asked, 1) for each in used)
    return Cell(
        per_s=measured.answered_per_s,
        p50_ms=measured.p50_ms,
        p99_ms=measured.p99_ms,
        failed=sum(measured.errors.values()),
        degraded=measured.degraded,
        caller_ms=1000 * measured.caller_cpu_s / max(measured.asked, 1),
        gateway_ms=gateway_ms,
        model_ms=model_ms,
        store_ms=store_ms,
        resident_mb=resident_mb(server.pid),
        stages_us=measured.stages_us,
    )


def median(rounds: Sequence[Cell]) -> Cell:
    def of(value: Callable[[Cell], float]) -> float:
        return statistics.median(value(cell) for cell in rounds)

    stages = {stage for cell in rounds for stage in cell.stages_us}
    return Cell(
        per_s=of(lambda cell: cell.per_s),
        p50_ms=of(lambda cell: cell.p50_ms),
        p99_ms=of(lambda cell: cell.p99_ms),
        failed=sum(cell.failed for cell in rounds),
        degraded=sum(cell.degraded for cell in rounds),
        caller_ms=of(lambda cell: cell.caller_ms),
        gateway_ms=of(lambda cell: cell.gateway_ms),
        model_ms=of(lambda cell: cell.model_ms),
        store_ms=of(lambda cell: cell.store_ms),
        resident_mb=max(cell.resident_mb for cell in rounds),
        stages_us={
            stage: statistics.median(cell.stages_us[stage] for cell in rounds if stage in cell.stages_us)
            for stage in sorted(stages)
        },
    )
