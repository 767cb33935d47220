"""`python -m loadtest.faults`: one fault after another under load, and what callers saw of each.

Starts Redis, the model server, a proxy before it and `longtail gateway` on free ports over a made-up shop (made once, 2
minutes, kept in `--work-dir`). Callers ask for rankings without pause, a deadline of a second each. Each fault lasts
some seconds. Printed for each: how many were answered within their deadline (degraded counts, and so does a refusal at
once), how many were degraded, how many were wrong or lacked something without saying so, and how long after its end
the last answer was that was not whole. Exit code 1 when under 99.9 % were answered, one was wrong, or it took over 5 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.compare import state
from loadtest.compare.contenders import serve_model
from loadtest.compare.page import as_text
from loadtest.errors import LoadTestError
from loadtest.faults import clock
from loadtest.faults.asking import DEADLINE_S, GOOD_CODES, Answer, Asking
from loadtest.faults.bad_model import Between, Spoil, nan_scores, scores_over_one, serve, wrong_shape
from loadtest.processes import Server, free_address, is_listening, is_serving, redis_binary, running

LEAST_ANSWERED: Final = 0.999
MOST_RECOVERY_S: Final = 5.0
HEALTHY_S: Final = 1.0
WATCHED_S: Final = 7.0
GRACE_S: Final = 0.1  # of a deadline: the caller's own clock under load
UNLIMITED: Final = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@dataclass(kw_only=True)
class World:
    """All that runs; `redis` and `model` may be other processes after a fault."""

    directory: Path
    prepared: Path
    gateway: Server
    between: Between
    model_address: str
    redis_address: str
    redis_settings: Mapping[str, str]
    pids: dict[str, int]
    clock: Path
    stack: ExitStack

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self.pids[name], number)

    async def restart_model(self) -> None:
        port = self.model_address.rpartition(":")[2]
        model = await asyncio.to_thread(
            self.stack.enter_context, serve_model(self.prepared, log=self.directory / "logs" / "model.log", port=port)
        )
        self.pids["model"] = model.pid

    async def restart_redis(self, *, filled: bool) -> None:
        server = await asyncio.to_thread(self.stack.enter_context, redis_at(self.redis_address, self.directory))
        self.pids["redis"] = server.pid
        if filled:
            await self.fill_redis()

    async def fill_redis(self) -> None:
        where = self.directory / "redis"
        await asyncio.to_thread(state.longtail, where, "features", "materialize", "--full", environ=self.redis_settings)

    def limit_files(self, size: int | None) -> None:
        """The gateway's writes beyond that size fail, as on a full disk."""
        limits = UNLIMITED if size is None else (size, resource.RLIM_INFINITY)
        resource.prlimit(self.gateway.pid, resource.RLIMIT_FSIZE, limits)


Act = Callable[[World], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`begin`, some seconds, `end`; recovery counts from when `end` is done."""

    name: str
    begin: Act
    end: Act
    seconds: float = 3.0


def at_once(act: Callable[[World], None]) -> Act:
    async def do(world: World) -> None:
        act(world)

    return do


def spoiled(name: str, spoil: Spoil) -> Fault:
    def begin(world: World) -> None:
        world.between.spoil = spoil

    def end(world: World) -> None:
        world.between.spoil = None

    return Fault(name=f"model: {name}", begin=at_once(begin), end=at_once(end))


def delayed(seconds: float) -> Act:
    def do(world: World) -> None:
        world.between.delay_s = seconds

    return at_once(do)


def signalled(name: str, number: signal.Signals) -> Act:
    return at_once(lambda world: world.signal(name, number))


async def emptied(world: World) -> None:
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(f"redis://{world.redis_address}/0") as client:
        await client.flushall()


async def swap(world: World) -> None:
    """The same model under the next number: first where the gateway looks for its contract, then where it is served."""
    for root in (world.directory / "redis", world.prepared):
        models = root / "models" / "longtail"
        newest = max(int(path.name) for path in models.iterdir() if path.name.isdecimal())
        copy, name = models / "copying", models / str(newest + 1)
        await asyncio.to_thread(shutil.copytree, models / str(newest), copy)
        contract = copy / "assets.extra" / "contract.json"
        contract.write_text(json.dumps(json.loads(contract.read_text()) | {"model_version": newest + 1}))
        copy.rename(name)
        world.stack.callback(shutil.rmtree, name)


async def nothing(world: World) -> None: ...


FAULTS: Final = (
    Fault(name="model: killed", begin=signalled("model", signal.SIGKILL), end=lambda world: world.restart_model()),
    Fault(
        name="model: frozen",
        begin=signalled("model", signal.SIGSTOP),
        end=signalled("model", signal.SIGCONT),
    ),
    Fault(name="model: slow", begin=delayed(0.6), end=delayed(0.0)),
    spoiled("wrong shape", wrong_shape),
    spoiled("NaN", nan_scores),
    spoiled("scores of 7.5", scores_over_one),
    Fault(name="model: swapped", begin=swap, end=nothing, seconds=6.0),
    Fault(name="redis: frozen", begin=signalled("redis", signal.SIGSTOP), end=signalled("redis", signal.SIGCONT)),
    Fault(
        name="redis: killed",
        begin=signalled("redis", signal.SIGKILL),
        end=lambda world: world.restart_redis(filled=True),
    ),
    Fault(
        name="redis: empty",
        begin=emptied,
        end=lambda world: world.fill_redis(),
    ),
    Fault(
        name="disk: full",
        begin=at_once(lambda world: world.limit_files(1)),
        end=at_once(lambda world: world.limit_files(None)),
    ),
    Fault(
        name="clock: an hour on",
        begin=at_once(lambda world: clock.jump(world.clock, clock.JUMP_S)),
        end=at_once(lambda world: clock.jump(world.clock, 0)),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    fault: str
    asked: int
    answered: float  # share
    degraded: float
    wrong: tuple[str, ...]
    recovery_s: float

    @property
    def is_fine(self) -> bool:
        return self.answered >= LEAST_ANSWERED and not self.wrong and self.recovery_s <= MOST_RECOVERY_S


async def endure(world: World, fault: Fault, asking: Asking) -> Seen:
    first = len(asking.answers)
    await fault.begin(world)
    await asyncio.sleep(fault.seconds)
    await fault.end(world)
    healed_s = time.monotonic()
    await asyncio.sleep(WATCHED_S)
    return judge(fault.name, asking.answers[first:], healed_s)


def judge(name: str, answers: list[Answer], healed_s: float) -> Seen:
    in_time = [one for one in answers if one.code in GOOD_CODES and one.took_s <= DEADLINE_S + GRACE_S]
    lacking = [one.at_s for one in answers if not one.is_full]
    return Seen(
        fault=name,
        asked=len(answers),
        answered=len(in_time) / max(len(answers), 1),
        degraded=sum(bool(one.causes) for one in answers) / max(len(answers), 1),
        wrong=tuple(sorted({one.wrong for one in answers if one.wrong})),
        recovery_s=max(max(lacking, default=healed_s) - healed_s, 0.0),
    )


def redis_at(address: str, directory: Path) -> AbstractContextManager[Server]:
    keep_nothing = ("--save", "", "--appendonly", "no", "--dir", str(directory))
    words = (redis_binary(), "--bind", "127.0.0.1", "--port", address.rpartition(":")[2], *keep_nothing)
    return running("redis", words, address, is_ready=is_listening)


async def run(directory: Path, only: str) -> list[Seen]:
    prepared = state.prepare(directory)
    logs, world_clock = directory / "logs", directory / "clock"
    logs.mkdir(exist_ok=True)
    redis_address, model_address, between_address, address = (free_address() for _ in range(4))
    with ExitStack() as stack:
        redis = stack.enter_context(redis_at(redis_address, directory))
        where, settings = await asyncio.to_thread(state.on_redis, prepared, f"redis://{redis_address}/0")
        port = model_address.rpartition(":")[2]
        model = stack.enter_context(serve_model(prepared, log=logs / "model.log", port=port))
        between = Between(model_address)
        server = await serve(between_address, between)
        environ = {
            "LONGTAIL_STATE_DIR": str(where),
            "LONGTAIL_GATEWAY__ADDRESS": address,
            "LONGTAIL_GATEWAY__MODEL_SERVER": between_address,
            "LONGTAIL_GATEWAY__METRICS_ADDRESS": "",
            **settings,
        }
        environ |= clock.environ(world_clock)
        words = (sys.executable, "-P", "-m", "cli.main", "gateway")
        gateway = await asyncio.to_thread(
            stack.enter_context,
            running("gateway", words, address, environ, is_ready=is_serving, log=logs / "faults-gateway.log"),
        )
        world = World(
            directory=directory,
            prepared=prepared,
            gateway=gateway,
            between=between,
            model_address=model_address,
            redis_address=redis_address,
            redis_settings=settings,
            pids={"model": model.pid, "redis": redis.pid, "gateway": gateway.pid},
            clock=world_clock,
            stack=stack,
        )
        found = await endure_all(world, [fault for fault in FAULTS if only in fault.name])
        await server.stop(0)
    return found


async def endure_all(world: World, faults: list[Fault]) -> list[Seen]:
    asking = Asking(address=world.gateway.address)
    asked = asyncio.create_task(asking.run())
    await asyncio.sleep(5 * HEALTHY_S)
    asking.is_learning = False
    found = []
    for fault in faults:
        await asyncio.sleep(HEALTHY_S)
        found.append(await endure(world, fault, asking))
        one = found[-1]
        sys.stderr.write(f"{one.fault}: {one.answered:.2%} answered, recovery {one.recovery_s:.1f} s\n")
    asking.stop()
    await asked
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose name has this in it, such as redis")
    parser.add_argument("--work-dir", type=Path, default=Path("var/compare"), help="kept between runs")
    options = parser.parse_args()
    try:
        found = asyncio.run(run(options.work_dir, options.only))
    except LoadTestError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    header = ("fault", "asked", "in time", "degraded", "wrong", "recovery s", "")
    lines = [
        (
            one.fault,
            str(one.asked),
            f"{one.answered:.2%}",
            f"{one.degraded:.0%}",
            "; ".join(one.wrong)[:60] or "none",
            f"{one.recovery_s:.1f}",
            "fine" if one.is_fine else "missed",
        )
        for one in found
    ]
    sys.stdout.write(as_text(header, lines))
    return 0 if all(one.is_fine for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
