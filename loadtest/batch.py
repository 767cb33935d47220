"""What BatchRankItems gives a bulk job, and what it takes from people: `python -m loadtest.batch [--rounds N]`.

Starts `longtail gateway`, the model server and Redis on free ports over a made-up shop. Several rounds of: unary calls,
one after another and 32 at a time; one BatchRankItems stream; people who ask at a fixed rate, alone and beside a
stream. Prints users a second and p99, medians, and the ratios. Exit code 1 when the stream is under 3 times the unary
calls, people's p99 is over 1.5 times what it is alone, or an answer was lost.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from loadtest.compare.caller import Load, Measured, questions
from loadtest.compare.contenders import OURS, arena
from loadtest.compare.measure import call
from loadtest.errors import LoadTestError
from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import activation_pb2_grpc

LEAST_SPEED: Final = 3.0
MOST_P99: Final = 1.5
AT_ONCE: Final = 32
WARM_UP_S: Final = 3.0


@dataclass(frozen=True, kw_only=True)
class Round:
    one_by_one: Measured
    at_once: Measured
    stream_per_s: float
    people: Measured
    people_beside: Measured
    lost: int  # of the streams, errors in place of answers


class Stream:
    """One BatchRankItems call that goes on until it is told to stop."""

    def __init__(self, address: str, *, seed: int) -> None:
        self._address = address
        self._requests = [
            pb.RankItemsRequest.FromString(one) for one in questions(Load(address="", seconds=0, seed=seed))
        ]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered = 0
        self.errors = 0

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        with grpc.insecure_channel(self._address) as channel:
            try:
                for answer in activation_pb2_grpc.ActivationServiceStub(channel).BatchRankItems(self._asked()):
                    self.answered += 1
                    self.errors += answer.HasField("error")
            except grpc.RpcError:
                self.errors += 1

    def _asked(self) -> Iterator[pb.RankItemsRequest]:
        while not self._stopped.is_set():
            yield from self._requests


def one_round(address: str, *, seconds: float, rate_per_s: float, seed: int) -> Round:
    call(Load(address=address, seconds=WARM_UP_S, callers=8, seed=seed + 50))
    one_by_one = call(Load(address=address, seconds=seconds, callers=1, seed=seed, priority=pb.PRIORITY_BATCH))
    at_once = call(Load(address=address, seconds=seconds, callers=AT_ONCE, seed=seed, priority=pb.PRIORITY_BATCH))
    with Stream(address, seed=seed) as alone:
        time.sleep(WARM_UP_S / 3)
        first, began_s = alone.answered, time.perf_counter()
        time.sleep(seconds)
        stream_per_s = (alone.answered - first) / (time.perf_counter() - began_s)
    people = call(Load(address=address, seconds=seconds, rate_per_s=rate_per_s, seed=seed))
    with Stream(address, seed=seed) as beside:
        people_beside = call(Load(address=address, seconds=seconds, rate_per_s=rate_per_s, seed=seed))
    return Round(
        one_by_one=one_by_one,
        at_once=at_once,
        stream_per_s=stream_per_s,
        people=people,
        people_beside=people_beside,
        lost=alone.errors + beside.errors,
    )


def report(rounds: Sequence[Round]) -> bool:
    """Prints it; True when the limits hold."""

    def middle(values: Iterator[float]) -> float:
        return statistics.median(values)

    loop = middle(one.one_by_one.answered_per_s for one in rounds)
    at_once = middle(one.at_once.answered_per_s for one in rounds)
    stream = middle(one.stream_per_s for one in rounds)
    alone, beside = (
        middle(one.p99_ms for one in found)
        for found in ((one.people for one in rounds), (one.people_beside for one in rounds))
    )
    speed = middle(one.stream_per_s / one.one_by_one.answered_per_s for one in rounds)
    p99 = middle(one.people_beside.p99_ms / one.people.p99_ms for one in rounds)
    unary = [kind for one in rounds for kind in (one.one_by_one, one.at_once, one.people, one.people_beside)]
    lost = sum(one.lost for one in rounds) + sum(sum(one.errors.values()) for one in unary)
    lines = (
        f"users/s: {stream:.0f} by one stream, {loop:.0f} by unary calls one after another, {at_once:.0f} by {AT_ONCE}",
        f"stream over one after another: {speed:.2f} × (≥ {LEAST_SPEED:g}); over {AT_ONCE} at once: "
        f"{stream / at_once:.2f} ×",
        f"people's p99: {alone:.1f} ms alone, {beside:.1f} ms beside a stream: {p99:.2f} × (≤ {MOST_P99:g})",
        f"lost: {lost}",
    )
    sys.stdout.write("\n".join(lines) + "\n")
    return speed >= LEAST_SPEED and p99 <= MOST_P99 and not lost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--rate", type=float, default=50.0, help="of the people, a second")
    parser.add_argument("--work-dir", type=Path, default=Path("var/compare"), help="kept between runs")
    options = parser.parse_args()
    try:
        with arena(options.work_dir, only=frozenset({OURS})) as running:
            address = running.contenders[OURS].address
            rounds = [
                one_round(address, seconds=options.seconds, rate_per_s=options.rate, seed=10 * number + 1)
                for number in range(options.rounds)
            ]
    except LoadTestError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0 if report(rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
