"""Asks one gateway for rankings, as fast as it answers or at a rate: `python -m loadtest.compare.caller PLAN.json`.

A process of its own, so that its time is not the gateway's. Prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

from loadtest.compare import state
from longtail.activation.v1 import activation_pb2 as pb

METHOD: Final = "/longtail.activation.v1.ActivationService/RankItems"
QUESTIONS: Final = 400
LIMIT: Final = 10


@dataclass(frozen=True, kw_only=True)
class Load:
    """`callers` that ask again once answered, or `rate_per_s` requests whatever the answers do."""

    address: str
    seconds: float
    callers: int = 0
    rate_per_s: float = 0.0
    candidates: int = 200
    timeout_s: float = 5.0
    seed: int = 1
    priority: int = 0


@dataclass(kw_only=True)
class Measured:
    """What one load gave. Times in ms; in an open loop they count from when the request was due."""

    asked: int = 0
    answered: int = 0
    degraded: int = 0
    seconds: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    caller_cpu_s: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    stages_us: dict[str, float] = field(default_factory=dict)  # medians, as the answers say

    @property
    def answered_per_s(self) -> float:
        return self.answered / self.seconds if self.seconds else 0.0


class Caller:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._times_s: list[float] = []
        self._errors: Counter[str] = Counter()
        self._stages: dict[str, list[int]] = {}
        self._degraded = 0
        self._questions = list(questions(load))
        self._next = 0

    async def run(self) -> Measured:
        channels = [grpc.aio.insecure_channel(self._load.address, options=_own(n)) for n in range(2)]
        parse = pb.RankItemsResponse.FromString
        asks: list[Any] = [channel.unary_unary(METHOD, response_deserializer=parse) for channel in channels]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        began_s, cpu_s = time.perf_counter(), _cpu_s()
        await (self._open(asks, began_s) if self._load.rate_per_s else self._closed(asks, began_s))
        seconds = time.perf_counter() - began_s
        used_s = _cpu_s() - cpu_s
        await asyncio.gather(*(channel.close() for channel in channels))
        answered = len(self._times_s)
        asked = answered + sum(self._errors.values())
        times_ms = sorted(1000 * t for t in self._times_s) + [float("inf")] * (asked - answered)
        return Measured(
            asked=asked,
            answered=answered,
            degraded=self._degraded,
            seconds=seconds,
            p50_ms=_percentile(times_ms, 0.5),
            p99_ms=_percentile(times_ms, 0.99),
            caller_cpu_s=used_s,
            errors=dict(self._errors),
            stages_us={stage: statistics.median(us) for stage, us in self._stages.items()},
        )

    async def _closed(self, asks: Sequence[Any], began_s: float) -> None:
        end_s = began_s + self._load.seconds

        async def ask_again(number: int) -> None:
            while (now_s := time.perf_counter()) < end_s:
                await self._ask(asks[number % len(asks)], now_s)

        await asyncio.gather(*(ask_again(number) for number in range(self._load.callers)))

    async def _open(self, asks: Sequence[Any], began_s: float) -> None:
        rng = random.Random(self._load.seed)  # noqa: S311
        due_s, tasks = began_s, set[asyncio.Task[None]]()
        while (due_s := due_s + rng.expovariate(self._load.rate_per_s)) < began_s + self._load.seconds:
            await asyncio.sleep(max(due_s - time.perf_counter(), 0))
            tasks.add(task := asyncio.create_task(self._ask(asks[len(tasks) % len(asks)], due_s)))
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def _ask(self, ask: Any, due_s: float) -> None:
        self._next = (self._next + 1) % len(self._questions)
        try:
            answer = await ask(self._questions[self._next], timeout=self._load.timeout_s)
        except grpc.aio.AioRpcError as error:
            self._errors[error.code().name] += 1
            return
        self._times_s.append(time.perf_counter() - due_s)
        self._degraded += answer.degraded
        if len(self._times_s) % 20 == 1:
            for timing in answer.timings:
                self._stages.setdefault(timing.stage, []).append(timing.duration_us)


def questions(load: Load) -> list[bytes]:
    """Random users, each with random items to rank."""
    rng = random.Random(load.seed)  # noqa: S311
    return [
        pb.RankItemsRequest(
            user_id=state.user_id(rng.randrange(state.USERS)),
            candidate_item_ids=[state.item_id(n) for n in rng.sample(range(state.ITEMS), load.candidates)],
            limit=LIMIT,
            surface="compare",
            priority=pb.Priority.ValueType(load.priority),
        ).SerializeToString()
        for _ in range(QUESTIONS)
    ]


def _own(number: int) -> list[tuple[str, Any]]:
    """A connection for each channel."""
    return [("grpc.use_local_subchannel_pool", 1), ("longtail.caller", number)]


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("inf")


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    load = Load(**json.loads(Path(sys.argv[1]).read_text()))
    sys.stdout.write(json.dumps(asdict(asyncio.run(Caller(load).run()))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
