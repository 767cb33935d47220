"""`python -m loadtest.compare [--profile quick|full]`: req/s, p50, p99, CPU by process, stages, and the ratios.

Prepares a state of its own (about 2 minutes, once), starts Redis, the model server and every contender as processes
on free ports, and measures them in turn, round by round: closed loops of 1, 8 and 32 callers, open loops at fixed
rates. Exit code 1 when a target is missed. quick takes about 2 minutes, full about 12.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from loadtest.compare import page
from loadtest.compare.contenders import CACHE, FLOOR, NAIVE, OURS, SQLITE, Arena, arena
from loadtest.compare.measure import Cell, measure, median
from loadtest.compare.verdict import targets
from loadtest.errors import LoadTestError

CALLERS: Final = (1, 8, 32)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """`seconds` of each load in each round."""

    rounds: int
    seconds: float
    rates_per_s: tuple[int, ...]


PROFILES: Final = {
    "quick": Profile(rounds=1, seconds=4, rates_per_s=(100,)),
    "full": Profile(rounds=3, seconds=8, rates_per_s=(30, 100, 300)),
}


def loads(profile: Profile) -> dict[str, dict[str, Any]]:
    closed = {f"{callers} caller{'s' * (callers > 1)}": {"callers": callers} for callers in CALLERS}
    return closed | {f"{rate}/s": {"rate_per_s": float(rate)} for rate in profile.rates_per_s}


def run(arena: Arena, profile: Profile) -> dict[tuple[str, str], Cell]:
    """Medians over the rounds. One warm-up of each contender is not counted."""
    for name in arena.contenders:
        measure(arena, name, seconds=2, callers=8, seed=99)
    measured: dict[tuple[str, str], list[Cell]] = {}
    for number in range(profile.rounds):
        for load, what in loads(profile).items():
            for name in arena.contenders:
                if what.get("rate_per_s", 0) > 50 and name == NAIVE:
                    continue  # beyond what it can do: its queue would only grow
                cell = measure(arena, name, seconds=profile.seconds, seed=number + 1, **what)
                measured.setdefault((name, load), []).append(cell)
                sys.stderr.write(f"round {number + 1}  {name:<20} {load:<10} {cell.per_s:6.0f}/s\n")
    order = {name: place for place, name in enumerate((NAIVE, CACHE, FLOOR, OURS, SQLITE))}
    ordered = sorted(measured.items(), key=lambda one: order[one[0][0]])
    return {key: median(cells) for key, cells in ordered}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=sorted(PROFILES), default="quick")
    parser.add_argument("--work-dir", type=Path, default=Path("var/compare"), help="kept between runs")
    parser.add_argument("--only", action="append", default=[], help="measure this contender alone; no ratios then")
    options = parser.parse_args()
    try:
        with arena(options.work_dir, only=frozenset(options.only)) as running:
            cells = run(running, PROFILES[options.profile])
            ready_s = {name: server.ready_s for name, server in running.contenders.items()}
    except LoadTestError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    tables: list[page.Table] = [("Measured; CPU in ms per request, by process", page.COLUMNS, page.rows(cells))]
    tables.append(("Stages in the gateway, median µs", ("contender", "load", "stage", "µs"), page.stage_rows(cells)))
    judged = [] if options.only else targets(cells, ready_s=ready_s[OURS])
    tables.append(("Targets", ("target", "limit", "measured", ""), [page.target_row(one) for one in judged]))
    for caption, header, lines in tables:
        sys.stdout.write(f"\n{caption}\n{page.as_text(header, lines)}")
    path = options.work_dir / f"compare-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.html"
    page.write(path, title="The gateway beside its baselines", tables=tables)
    sys.stdout.write(f"\n{path}\n")
    return 0 if all(one.is_met for one in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
