"""What a campaign over a whole product costs those who ask meanwhile: `python -m loadtest.campaign`.

A made-up shop gets a crowd of users who stopped coming: their log is imported, built and loaded into a Redis by the
commands a person would type. Then SelectUsers chooses among all of them, while a caller asks RankItems at a fixed
rate. Prints how long it took and the caller's p99 with and without it. Exit code 1 when it took over ten minutes, an
answer was lost, or the p99 is over 1.5 times what it is without. Takes about ten minutes for a million.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import grpc
import pyarrow as pa
import pyarrow.parquet as pq

from loadtest.compare import state
from loadtest.compare.caller import Load, Measured
from loadtest.compare.contenders import serve_gateway, serve_model
from loadtest.compare.measure import call
from loadtest.errors import LoadTestError
from loadtest.processes import redis_server
from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import activation_pb2_grpc

MOST_S: Final = 600.0
MOST_RATIO: Final = 1.5
PART_S: Final = 10.0  # of the caller's load that is measured at a time
PARTS_ALONE: Final = 3
VISITS: Final = 2  # of each user of the crowd
AWAY_DAYS: Final = (40, 190)
BATCH_USERS: Final = 100_000
# As shipped, but at no hour is it night.
POLICY: Final = """
[channels.push]
cost = 1.0
quiet_from_h = 0
quiet_until_h = 0
[channels.push.caps]
contacts_1d = 1
contacts_7d = 2
contacts_30d = 4
spacing_h = 24.0
"""


@dataclass(kw_only=True)
class Chosen:
    """What SelectUsers answered."""

    decisions: Counter[str]
    seconds: float = 0.0
    error: str = ""


@contextmanager
def gateway(directory: Path, *, users: int) -> Iterator[str]:
    """The shop with its crowd, served; yields the address."""
    prepared = state.prepare(directory)
    crowd = directory / "crowd"
    shutil.rmtree(crowd, ignore_errors=True)
    for part in ("events", "items", "models"):
        shutil.copytree(prepared / part, crowd / part)
    write_crowd(directory / "crowd.parquet", users, now=datetime.now(UTC))
    columns = ("user=user", "item=item", "time=at", "type=action")
    policy = directory / "campaign-policy.toml"
    policy.write_text(POLICY)
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(directory / "redis-server"))
        settings = {
            "LONGTAIL_FEATURES__ONLINE_STORE": "redis",
            "LONGTAIL_FEATURES__REDIS_URL": f"redis://{redis.address}/0",
        }
        state.longtail(crowd, "data", "import", str(directory / "crowd.parquet"), "--map", *columns)
        for step in ("build", "apply", "materialize"):
            say(f"features {step} ...")
            state.longtail(crowd, "features", step, environ=settings)
        model = stack.enter_context(serve_model(crowd, log=directory / "model-server.log"))
        environ = {**settings, "LONGTAIL_GATEWAY__POLICY_PATH": str(policy)}
        yield stack.enter_context(serve_gateway(crowd, model, environ, log=directory / "gateway.log")).address


def write_crowd(file: Path, users: int, *, now: datetime, seed: int = 11) -> None:
    """Users with two visits each, the last 40 days ago or longer."""
    rng = random.Random(seed)  # noqa: S311
    schema = pa.schema(
        [("user", pa.string()), ("item", pa.string()), ("at", pa.timestamp("us", "UTC")), ("action", pa.string())]
    )
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, users, BATCH_USERS):
            numbers = [number for number in range(start, min(start + BATCH_USERS, users)) for _ in range(VISITS)]
            columns = [
                [f"crowd-{number}" for number in numbers],
                [state.item_id(int(state.ITEMS * rng.random() ** 2.5)) for _ in numbers],
                [now - timedelta(days=rng.uniform(*AWAY_DAYS)) for _ in numbers],
                ["view"] * len(numbers),
            ]
            arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.table(arrays, schema=schema))


def select(address: str, *, contacts: int, into: Chosen) -> None:
    """Among everyone, for as long as is allowed."""
    request = pb.SelectUsersRequest(campaign_id="everyone", segment=pb.Segment(), max_contacts=contacts)
    began_s = time.perf_counter()
    with grpc.insecure_channel(address) as channel:
        try:
            for one in activation_pb2_grpc.ActivationServiceStub(channel).SelectUsers(request, timeout=MOST_S):
                into.decisions[pb.Decision.Name(one.answer.decision).removeprefix("DECISION_").lower()] += 1
        except grpc.RpcError as error:
            into.error = str(error)
    into.seconds = time.perf_counter() - began_s


def beside(address: str, *, rate_per_s: float, contacts: int) -> tuple[list[Measured], list[Measured], Chosen]:
    """The caller's load alone, and while users are selected."""
    call(Load(address=address, seconds=3, rate_per_s=rate_per_s, seed=99))
    alone = [ask(address, rate_per_s, seed) for seed in range(PARTS_ALONE)]
    chosen = Chosen(decisions=Counter())
    selecting = threading.Thread(target=select, args=(address,), kwargs={"contacts": contacts, "into": chosen})
    selecting.start()
    during: list[Measured] = []
    while selecting.is_alive():
        during.append(ask(address, rate_per_s, len(during) + PARTS_ALONE))
    selecting.join()
    return alone, during, chosen


def ask(address: str, rate_per_s: float, seed: int) -> Measured:
    return call(Load(address=address, seconds=PART_S, rate_per_s=rate_per_s, seed=seed))


def report(alone: Sequence[Measured], during: Sequence[Measured], chosen: Chosen, users: int) -> bool:
    """Prints it; True when the limits hold."""
    lost = sum(sum(one.errors.values()) for one in (*alone, *during))
    p99_alone, p99_during = (statistics.median(one.p99_ms for one in parts) for parts in (alone, during))
    decided = ", ".join(f"{count} {name}" for name, count in sorted(chosen.decisions.items()))
    say(f"chosen among {users:,} users and the shop's: {decided} in {chosen.seconds:.0f} s (≤ {MOST_S:.0f})")
    say(f"{sum(chosen.decisions.values()) / chosen.seconds:,.0f} users/s; {chosen.error or 'to the end'}")
    ratio = p99_during / p99_alone
    p99s = f"p99 {p99_during:.1f} ms, alone {p99_alone:.1f}"
    say(f"RankItems meanwhile: {p99s}: {ratio:.2f} × (≤ {MOST_RATIO}); lost {lost}")
    return not chosen.error and chosen.seconds <= MOST_S and ratio <= MOST_RATIO and not lost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--contacts", type=int, default=100_000, help="the campaign's budget")
    parser.add_argument("--rate", type=float, default=50.0, help="of RankItems meanwhile, a second")
    parser.add_argument("--work-dir", type=Path, default=Path("var/compare"), help="kept between runs")
    options = parser.parse_args()
    try:
        with gateway(options.work_dir, users=options.users) as address:
            alone, during, chosen = beside(address, rate_per_s=options.rate, contacts=options.contacts)
    except LoadTestError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0 if report(alone, during, chosen, options.users) else 1


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
