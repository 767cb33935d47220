"""The embedded model server beside a plain one in the same run: `python -m loadtest.model_server`.

Both serve the same version of a model as processes of their own; they take turns in every round, in closed loops of
1, 8 and 32 callers. Prints medians over the rounds and the ratios beside their targets, and how far the answers of
the two are apart. Exits 1 when a target is missed. Needs the developer's environment: TensorFlow's serving stubs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np

from loadtest.errors import LoadTestError
from loadtest.model_server.caller import Measured, Shape, measure, questions
from loadtest.processes import Server, cpu_s, free_address, longtail_server, running

CALLERS: Final = (1, 8, 32)
WARM_UP_S: Final = 1.0
LEAST_THROUGHPUT: Final = 1.8  # times the plain server's, at 32 callers
MOST_LATENCY: Final = 1.15  # times the plain server's p50, at one caller
MOST_APART: Final = 1e-6
MODEL_NAME: Final = "m"
OURS: Final = "model-server"
SHOWN: Final = ("per_s", "p50_ms", "p99_ms", "cpu_ms")

Measurements = dict[tuple[str, int], list[Measured]]


def main() -> int:
    """Prints the table; exits 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-base-path", type=Path, default=Path("var/models/longtail"))
    parser.add_argument("--signature", default="rank")
    parser.add_argument("--candidates", type=int, default=Shape.candidates)
    parser.add_argument("--flag", action="append", default=[], help="a flag for the embedded server, may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each closed loop")
    options = parser.parse_args()
    try:
        measured = compare(options)
    except LoadTestError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return report(measured)


def compare(options: argparse.Namespace) -> Measurements:
    """Both servers, side by side."""
    base_path: Path = options.model_base_path
    versions = [path for path in base_path.glob("*") if path.name.isdigit()]
    if not versions:
        raise LoadTestError(
            f"no version of a model under {base_path}; `make demo` makes one, or give --model-base-path"
        )
    directory = max(versions, key=lambda path: int(path.name))
    addresses = {OURS: free_address(), "plain": free_address()}
    port = addresses[OURS].rpartition(":")[2]
    command = [
        "model-server",
        f"--port={port}",
        "--rest_api_port=0",
        f"--model_name={MODEL_NAME}",
        f"--model_base_path={base_path}",
    ]
    plain = [sys.executable, "-m", "loadtest.model_server.plain", addresses["plain"], str(directory)]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running("plain", plain, addresses["plain"])),
            stack.enter_context(longtail_server([*command, *options.flag], addresses[OURS], {})),
        ]
        return asyncio.run(_take_turns(servers, options))


async def _take_turns(servers: list[Server], options: argparse.Namespace) -> Measurements:
    plain, ours = servers
    asked = await questions(ours.address, MODEL_NAME, options.signature, Shape(candidates=options.candidates))
    for server in servers:
        await measure(server.address, asked, callers=8, seconds=WARM_UP_S)
    measured: Measurements = {}
    for turn in range(options.rounds):
        for callers in CALLERS:
            for server in (ours, plain) if turn % 2 else (plain, ours):
                before_s = cpu_s(server.pid)
                once = await measure(server.address, asked, callers=callers, seconds=options.seconds)
                once.cpu_ms = 1000 * (cpu_s(server.pid) - before_s) / once.answered
                measured.setdefault((server.name, callers), []).append(once)
    return measured


def report(measured: Measurements) -> int:
    """Prints medians and ratios; 1 when a target is missed."""
    rounds = len(measured[OURS, 1])
    write = sys.stdout.write
    write(f"medians of {rounds} rounds\ncallers   server             req/s    p50 ms    p99 ms   CPU ms/request\n")
    for callers in CALLERS:
        for name in ("plain", OURS):
            per_s, p50, p99, cpu = (_median(measured[name, callers], what) for what in SHOWN)
            write(f"{callers:>7}   {name:<13} {per_s:>10.0f} {p50:>9.2f} {p99:>9.2f} {cpu:>16.2f}\n")
    throughput = _ratio(measured, "per_s", 32)
    latency = _ratio(measured, "p50_ms", 1)
    apart = _apart(measured)
    verdicts = (
        ("throughput at 32 callers", throughput, f">= {LEAST_THROUGHPUT}", throughput >= LEAST_THROUGHPUT),
        ("p50 at one caller", latency, f"<= {MOST_LATENCY}", latency <= MOST_LATENCY),
        ("greatest difference of a score", apart, f"<= {MOST_APART:g}", apart <= MOST_APART),
    )
    write("\nratio to the plain server              target\n")
    for what, ratio, target, holds in verdicts:
        write(f"{what:<28} {ratio:>7.2g}    {target:<8} {'holds' if holds else 'MISSED'}\n")
    return 0 if all(holds for *_, holds in verdicts) else 1


def _ratio(measured: Measurements, what: str, callers: int) -> float:
    return _median(measured[OURS, callers], what) / _median(measured["plain", callers], what)


def _apart(measured: Measurements) -> float:
    """The greatest difference of a score between the servers, over all questions that both answered."""
    plain = {place: scores for once in measured["plain", 1] for place, scores in once.answers.items()}
    ours = [(place, s) for callers in CALLERS for once in measured[OURS, callers] for place, s in once.answers.items()]
    return max(float(np.abs(plain[place] - scores).max()) for place, scores in ours if place in plain)


def _median(rounds: list[Measured], what: str) -> float:
    return float(statistics.median(getattr(once, what) for once in rounds))


if __name__ == "__main__":
    sys.exit(main())
