"""What is left of the gateway when it is asked too much: `python -m loadtest.overload`.

Measures the capacity of `longtail gateway` over Redis in a closed loop, then asks in open loops at 1, 2 and 3 times
that rate, several rounds, each call with a deadline of a second. Good is an answer in time that is not degraded. Exit
code 1 when the goodput at 3 × is under 90 % of the best. The state is made once (2 minutes) and kept in `--work-dir`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.compare.caller import Load, Measured
from loadtest.compare.contenders import OURS, arena
from loadtest.compare.measure import call
from loadtest.compare.page import as_text
from loadtest.errors import LoadTestError

TIMES: Final = (1, 2, 3)
DEADLINE_S: Final = 1.0
CALLERS: Final = 32
REFUSALS: Final = ("RESOURCE_EXHAUSTED", "CANCELLED")  # by the gateway, and by gRPC's core when its backlog is full
LEAST_SHARE: Final = 0.9


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One load, medians over the rounds."""

    offered_per_s: float
    good_per_s: float
    refused: float  # shares of what was asked
    late: float
    degraded: float
    p50_ms: float

    @classmethod
    def of(cls, rounds: Sequence[Measured]) -> Stage:
        def share(count: float, one: Measured) -> float:
            return count / max(one.asked, 1)

        def median(values: Sequence[float]) -> float:
            return statistics.median(values)

        return cls(
            offered_per_s=median([one.asked / one.seconds for one in rounds]),
            good_per_s=median([(one.answered - one.degraded) / one.seconds for one in rounds]),
            refused=median([share(sum(one.errors.get(code, 0) for code in REFUSALS), one) for one in rounds]),
            late=median([share(one.errors.get("DEADLINE_EXCEEDED", 0), one) for one in rounds]),
            degraded=median([share(one.degraded, one) for one in rounds]),
            p50_ms=median([one.p50_ms for one in rounds]),
        )


def measure(directory: Path, *, rounds: int, seconds: float) -> dict[str, Stage]:
    found: dict[str, list[Measured]] = {}
    with arena(directory, only=frozenset({OURS})) as running:
        address = running.contenders[OURS].address
        call(Load(address=address, seconds=2, callers=8, seed=99))
        for number in range(rounds):
            closed = call(
                Load(address=address, seconds=seconds, callers=CALLERS, timeout_s=DEADLINE_S, seed=number + 1)
            )
            found.setdefault(f"{CALLERS} callers", []).append(closed)
            for times in TIMES:
                rate = times * closed.answered_per_s
                load = Load(address=address, seconds=seconds, rate_per_s=rate, timeout_s=DEADLINE_S, seed=number + 1)
                found.setdefault(f"{times} × capacity", []).append(call(load))
    return {name: Stage.of(measured) for name, measured in found.items()}


def table(stages: Mapping[str, Stage], best_per_s: float) -> str:
    header = ("load", "offered/s", "good/s", "of the best", "refused", "late", "degraded", "p50 ms")
    lines = [
        (
            name,
            f"{stage.offered_per_s:.0f}",
            f"{stage.good_per_s:.0f}",
            f"{stage.good_per_s / best_per_s:.2f}",
            *(f"{share:.1%}" for share in (stage.refused, stage.late, stage.degraded)),
            f"{stage.p50_ms:.0f}",
        )
        for name, stage in stages.items()
    ]
    return as_text(header, lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load in each round")
    parser.add_argument("--work-dir", type=Path, default=Path("var/compare"), help="kept between runs")
    options = parser.parse_args()
    try:
        stages = measure(options.work_dir, rounds=options.rounds, seconds=options.seconds)
    except LoadTestError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    best_per_s = max(stage.good_per_s for stage in stages.values())
    share = stages[f"{TIMES[-1]} × capacity"].good_per_s / best_per_s if best_per_s else 0.0
    sys.stdout.write(table(stages, best_per_s))
    word = "met" if share >= LEAST_SHARE else "missed"
    sys.stdout.write(f"goodput at {TIMES[-1]} × ÷ the best: {share:.2f} (≥ {LEAST_SHARE}), {word}\n")
    return 0 if share >= LEAST_SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
