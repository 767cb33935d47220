"""Random and mutated requests on the wire: `python -m loadtest.fuzz [--requests 100000]`.

Starts `longtail gateway` on free ports over a made-up shop without a model server, and sends it messages drawn by
hypothesis, the same with bytes changed, cut or doubled, and bytes that were never a message, to every unary method and
as elements of streams. Prints the answers by code and the memory before and after; exit code 1 when one was INTERNAL or
UNKNOWN, the process ended, or memory grew. `--valid` sends well-formed rankings only, to see whether memory is flat.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from hypothesis import strategies as st
from hypothesis.errors import NonInteractiveExampleWarning

from loadtest.compare import state
from loadtest.compare.contenders import serve_gateway
from loadtest.processes import Server, resident_mb
from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import feedback_pb2 as fb

UNARY: Final = (
    "ActivationService/RankItems",
    "ActivationService/GetUserState",
    "ActivationService/ExplainDecision",
    "FeedbackService/RecordEvents",
    "PrivacyService/ForgetUser",
)
STREAM: Final = "ActivationService/BatchRankItems"
WRONG: Final = frozenset({"INTERNAL", "UNKNOWN"})
SEEDS: Final = 400  # messages that hypothesis draws; each is sent many times, changed
AT_ONCE: Final = 32
GROWTH_MB: Final = 40.0  # over the run, the first tenth not counted: caches fill
SAMPLES: Final = 10

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_ids = st.sampled_from(["user-1", "user-7", "item-3", "item-9", "nobody", ""]) | _texts
_int64s = st.integers(-(2**63), 2**63 - 1)
_int32s = st.integers(-(2**31), 2**31 - 1)
_times = st.fixed_dictionaries({"seconds": st.integers(0, 2_000_000_000) | _int64s, "nanos": st.just(0) | _int32s})
_behaviors = st.fixed_dictionaries({"item_id": _ids}, optional={"event_type": _ids, "event_time": _times})
_rankings = st.fixed_dictionaries(
    {"user_id": _ids},
    optional={
        "history": st.lists(_behaviors, max_size=5),
        "candidate_item_ids": st.lists(_ids, max_size=50),
        "sources": st.lists(st.integers(0, 4), max_size=4),
        "limit": st.integers(-1, 250) | _int32s,
        "surface": _texts,
        "channel": _texts,
        "objective": st.integers(0, 5) | _int32s,
        "exclude_item_ids": st.lists(_ids, max_size=5),
        "require_full": st.booleans(),
        "explain": st.booleans(),
        "now": _times,
        "idempotency_key": _texts,
        "priority": st.integers(-1, 3),
    },
)
_events = st.fixed_dictionaries(
    {"event_id": _ids, "user_id": _ids, "item_id": _ids, "event_type": st.sampled_from(["click", "view"]) | _texts},
    optional={"event_time": _times, "value": st.floats(), "surface": _texts, "decision_id": _texts},
)


def seeds() -> list[bytes]:
    """Messages as hypothesis draws them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonInteractiveExampleWarning)
        rankings = [pb.RankItemsRequest(**_rankings.example()).SerializeToString() for _ in range(SEEDS // 2)]  # type: ignore[arg-type]
        records = st.lists(_events, max_size=5)
        events = [fb.RecordEventsRequest(events=records.example()).SerializeToString() for _ in range(SEEDS // 4)]  # type: ignore[arg-type]
        junk = [st.binary(max_size=200).example() for _ in range(SEEDS // 4)]
    return rankings + events + junk


def mutated(data: bytes, rng: random.Random) -> bytes:
    """As it is, or with bytes changed, cut off, doubled or put in."""
    changed = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        place = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0 if changed:
                changed[place % len(changed)] = rng.randrange(256)
            case 1:
                del changed[place:]
            case 2:
                changed[place:place] = changed[place : place + rng.randrange(40)]
            case _:
                changed[place:place] = rng.randbytes(rng.randrange(1, 6))
    return bytes(changed)


def ranking(rng: random.Random) -> bytes:
    return pb.RankItemsRequest(
        user_id=state.user_id(rng.randrange(state.USERS)),
        candidate_item_ids=[state.item_id(number) for number in rng.sample(range(state.ITEMS), 50)],
    ).SerializeToString()


class Fuzz:
    """Sends `count` requests, some at a time, and counts how they were answered."""

    def __init__(self, address: str, *, seed: int, is_valid: bool) -> None:
        self._address = address
        self._rng = random.Random(seed)  # noqa: S311
        self._is_valid = is_valid
        self._seeds = [] if is_valid else seeds()
        self.codes: Counter[str] = Counter()

    async def send(self, count: int) -> None:
        async with grpc.aio.insecure_channel(self._address) as channel:
            left = iter(range(count))
            await asyncio.gather(*(self._send_on(channel, left) for _ in range(AT_ONCE)))

    async def _send_on(self, channel: Any, left: Any) -> None:
        for _ in left:
            if self._is_valid:
                await self._ask(channel.unary_unary(_path(UNARY[0]))(ranking(self._rng), timeout=10))
            elif self._rng.random() < 0.02:
                await self._ask_stream(channel, [self._message() for _ in range(3)])
            else:
                await self._ask(channel.unary_unary(_path(self._rng.choice(UNARY)))(self._message(), timeout=10))

    def _message(self) -> bytes:
        return mutated(self._rng.choice(self._seeds), self._rng)

    async def _ask(self, call: Any) -> None:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            self.codes[error.code().name] += 1
        else:
            self.codes["OK"] += 1

    async def _ask_stream(self, channel: Any, messages: Sequence[bytes]) -> None:
        try:
            call = channel.stream_stream(_path(STREAM))(iter(messages), timeout=10)
            answers = [pb.RankItemsResponse.FromString(data) async for data in call]
        except grpc.aio.AioRpcError as error:
            self.codes[error.code().name] += 1
            return
        for answer in answers:
            self.codes[grpc_name(answer.error.code)] += 1


def grpc_name(number: int) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


def _path(method: str) -> str:
    return f"/longtail.activation.v1.{method}"


def run(server: Server, *, requests: int, seed: int, is_valid: bool) -> int:
    fuzz = Fuzz(server.address, seed=seed, is_valid=is_valid)
    memory_mb = []
    for _ in range(SAMPLES):
        asyncio.run(fuzz.send(requests // SAMPLES))
        if server.process.poll() is not None:
            sys.stdout.write(f"the gateway ended with {server.process.returncode}\n")
            return 1
        memory_mb.append(resident_mb(server.pid))
        sys.stderr.write(f"{sum(fuzz.codes.values())} answered, {memory_mb[-1]:.0f} MB\n")
    growth_mb = memory_mb[-1] - memory_mb[0]
    wrong = sum(fuzz.codes[code] for code in WRONG)
    for code, count in fuzz.codes.most_common():
        sys.stdout.write(f"{code:<20} {count}\n")
    sys.stdout.write(f"INTERNAL or UNKNOWN: {wrong} (0)\n")
    sys.stdout.write(f"memory: {memory_mb[0]:.0f} → {memory_mb[-1]:.0f} MB, {growth_mb:+.0f} (≤ {GROWTH_MB:.0f})\n")
    return 0 if not wrong and growth_mb <= GROWTH_MB else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--valid", action="store_true", help="well-formed rankings only")
    parser.add_argument("--work-dir", type=Path, default=Path("var/compare"), help="kept between runs")
    options = parser.parse_args()
    prepared = state.prepare(options.work_dir)
    environ = {"LONGTAIL_GATEWAY__ALLOW_REPLAY": "true", "LONGTAIL_GATEWAY__ALLOW_FORGET_USER": "false"}
    log = options.work_dir / "fuzz-gateway.log"
    with serve_gateway(prepared, "127.0.0.1:1", environ, log=log) as server:
        return run(server, requests=options.requests, seed=options.seed, is_valid=options.valid)


if __name__ == "__main__":
    sys.exit(main())
