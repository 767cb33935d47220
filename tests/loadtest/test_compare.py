"""The comparison's own parts: the caller, what it makes of answers and errors, and the verdict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from loadtest.compare import page
from loadtest.compare.caller import Caller, Load, questions
from loadtest.compare.contenders import CACHE, FLOOR, NAIVE, OURS, SQLITE
from loadtest.compare.measure import Cell, median
from loadtest.compare.service import service
from loadtest.compare.verdict import targets
from longtail.activation.v1 import activation_pb2 as pb

CELL = Cell(
    per_s=100.0,
    p50_ms=1.0,
    p99_ms=2.0,
    failed=0,
    degraded=0,
    caller_ms=0.1,
    gateway_ms=0.5,
    model_ms=1.0,
    store_ms=0.1,
    resident_mb=300.0,
    stages_us={"score": 10.0},
)


@asynccontextmanager
async def serving(rank: Any) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((service(rank),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_a_closed_loop_counts_answers_refusals_and_degraded_ones_apart() -> None:
    seen: list[pb.RankItemsRequest] = []

    async def rank(request: pb.RankItemsRequest, context: Any) -> pb.RankItemsResponse:
        seen.append(request)
        if len(seen) % 3 == 0:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return pb.RankItemsResponse(degraded=len(seen) % 3 == 1)

    async with serving(rank) as address:
        measured = await Caller(Load(address=address, seconds=0.3, callers=2)).run()
    assert measured.asked == len(seen) == measured.answered + measured.errors["RESOURCE_EXHAUSTED"]
    assert abs(measured.answered - 2 * measured.degraded) <= 1
    assert len(seen[0].candidate_item_ids) == len(set(seen[0].candidate_item_ids)) == 200
    assert measured.p99_ms == float("inf")  # a third got no answer


async def test_an_open_loop_asks_on_while_nothing_is_answered() -> None:
    asked = 0

    async def rank(request: pb.RankItemsRequest, context: Any) -> pb.RankItemsResponse:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.5)
        return pb.RankItemsResponse()

    async with serving(rank) as address:
        measured = await Caller(Load(address=address, seconds=0.4, rate_per_s=100)).run()
    assert asked == measured.answered > 10
    assert measured.p50_ms >= 450


def test_the_same_seed_asks_the_same() -> None:
    load = Load(address="", seconds=1)
    assert questions(load) == questions(load) != questions(replace(load, seed=2))


def test_targets_compare_what_ran_in_the_same_run(tmp_path: Path) -> None:
    speeds = {NAIVE: 10.0, CACHE: 50.0, FLOOR: 200.0, OURS: 180.0, SQLITE: 90.0}
    loads = ("8 callers", "32 callers")
    cells = {(name, load): replace(CELL, per_s=speed) for name, speed in speeds.items() for load in loads}
    judged = {target.name: target for target in targets(cells, ready_s=9.0)}
    met = {name: target.is_met for name, target in judged.items()}
    assert met["req/s at 32 callers ÷ naive"] is False
    assert met["req/s at 32 callers ÷ naive + cache"] is True
    assert met["req/s at 32 callers, SQLite ÷ Redis"] is False
    assert met["gateway CPU a request"] is True
    assert met["gateway ready"] is False
    lines = [page.target_row(target) for target in judged.values()]
    page.write(tmp_path / "page.html", title="<b>", tables=[("Targets", ("target", "limit", "measured", ""), lines)])
    assert "&lt;b&gt;" in (tmp_path / "page.html").read_text()


def test_a_failure_in_any_round_stays_visible() -> None:
    assert median([replace(CELL, per_s=1), replace(CELL, per_s=2, failed=3), replace(CELL, per_s=9)]) == replace(
        CELL, per_s=2, failed=3
    )
