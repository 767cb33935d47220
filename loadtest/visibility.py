"""How soon RankItems knows an event, while events arrive at a rate: a real gateway, a real Redis, over gRPC.

    python -m loadtest.visibility [--rate 500] [--seconds 20] [--separate]

`--separate` runs `longtail feedback-worker` beside the gateway; else the gateway follows its own log. No model server
is there: RankItems answers in prior order, which reads the same rows.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from loadtest.processes import redis_server
from longtail.activation.v1 import activation_pb2, activation_pb2_grpc, feedback_pb2, feedback_pb2_grpc

EVENTS_PER_CALL = 5
PROBES_PER_S = 20
LOOK_EVERY_S = 0.002
LOST_AFTER_S = 5.0
USERS = 2_000


def main() -> None:
    """Prints percentiles of the time from the acknowledgement of an event to the first answer that knows it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--separate", action="store_true")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        redis_server(Path(folder) / "redis") as redis,
        serving(Path(folder), f"redis://{redis.address}/0", separate=given.separate) as target,
    ):
        waits_s, sent = asyncio.run(measure(target, given.rate, given.seconds))
    p50, p90, p99 = np.percentile(np.array(waits_s) * 1000, (50, 90, 99))
    print(  # noqa: T201
        f"{sent / given.seconds:.0f} events/s sent; {len(waits_s)} probed: visible to RankItems after "
        f"p50 {p50:.1f} ms, p90 {p90:.1f} ms, p99 {p99:.1f} ms"
    )


@contextmanager
def serving(folder: Path, url: str, *, separate: bool) -> Iterator[str]:
    """The gateway's address, once it says that it is ready."""
    environ = os.environ | {
        "LONGTAIL_STATE_DIR": str(folder),
        "LONGTAIL_FEATURES__ONLINE_STORE": "redis",
        "LONGTAIL_FEATURES__REDIS_URL": url,
        "LONGTAIL_GATEWAY__ADDRESS": "127.0.0.1:0",
        "LONGTAIL_GATEWAY__METRICS_ADDRESS": "",
        "LONGTAIL_GATEWAY__MODEL_SERVER": "127.0.0.1:1",
        "LONGTAIL_GATEWAY__FOLLOW_FEEDBACK": str(not separate).lower(),
        "LONGTAIL_GATEWAY__FEEDBACK_PERMITS": "1000",
    }
    longtail = [sys.executable, "-P", "-m", "cli.main"]
    subprocess.run([*longtail, "features", "apply"], env=environ, check=True, capture_output=True)
    started: list[subprocess.Popen[str]] = []
    try:
        lines = []
        for name in ["gateway", *(["feedback-worker"] if separate else [])]:
            process = subprocess.Popen(
                [*longtail, name], env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            started.append(process)
            assert process.stdout is not None
            lines.append(next(line for line in process.stdout if "ready" in line))
        yield lines[0].split(" at ")[1].strip()
    finally:
        for process in started:
            process.terminate()
            process.wait()


async def measure(target: str, rate: int, seconds: float) -> tuple[list[float], int]:
    """The waits, and how many events went out."""
    async with grpc.aio.insecure_channel(target) as channel:
        feedback = feedback_pb2_grpc.FeedbackServiceStub(channel)
        ranking = activation_pb2_grpc.ActivationServiceStub(channel)
        await probe(feedback, ranking, "warm-up")
        load = asyncio.create_task(send(feedback, rate, seconds))
        probes = []
        for number in range(int(seconds * PROBES_PER_S)):
            probes.append(asyncio.create_task(probe(feedback, ranking, f"probe-{number}")))
            await asyncio.sleep(1 / PROBES_PER_S)
        return list(await asyncio.gather(*probes)), await load


async def send(feedback: Any, rate: int, seconds: float) -> int:
    """Calls at the rate, whether or not earlier ones were answered."""
    calls, pause_s, begun_s = [], EVENTS_PER_CALL / rate, time.perf_counter()
    for number in range(int(seconds / pause_s)):
        events = [
            event(f"load-{number}-{place}", f"user-{(number * EVENTS_PER_CALL + place) % USERS}")
            for place in range(EVENTS_PER_CALL)
        ]
        calls.append(asyncio.ensure_future(feedback.RecordEvents(feedback_pb2.RecordEventsRequest(events=events))))
        await asyncio.sleep(max(0.0, begun_s + (number + 1) * pause_s - time.perf_counter()))
    await asyncio.gather(*calls)
    return len(calls) * EVENTS_PER_CALL


async def probe(feedback: Any, ranking: Any, user_id: str) -> float:
    """Seconds from the acknowledgement of a new user's first event to the first answer that knows it."""
    await feedback.RecordEvents(feedback_pb2.RecordEventsRequest(events=[event(user_id, user_id)]))
    acknowledged_s = time.perf_counter()
    asked = activation_pb2.RankItemsRequest(user_id=user_id, candidate_item_ids=["i1", "i2"])
    while True:
        answer = await ranking.RankItems(asked)
        waited_s = time.perf_counter() - acknowledged_s
        if answer.user_state.history_length or waited_s > LOST_AFTER_S:
            return waited_s
        await asyncio.sleep(LOOK_EVERY_S)


def event(event_id: str, user_id: str) -> feedback_pb2.Event:
    return feedback_pb2.Event(event_id=event_id, user_id=user_id, item_id="i3", event_type="click")


if __name__ == "__main__":
    main()
