"""Who is compared: each a process of its own, all before the same model server and the same Redis."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.compare import state
from loadtest.processes import Server, free_address, longtail_server, redis_server, running

NAIVE: Final = "naive"
CACHE: Final = "naive + cache"
FLOOR: Final = "floor"
OURS: Final = "longtail"
SQLITE: Final = "longtail on SQLite"


@dataclass(frozen=True, kw_only=True)
class Arena:
    """Everything that runs."""

    contenders: Mapping[str, Server]
    model_server: Server
    redis: Server


@contextmanager
def arena(directory: Path, *, only: frozenset[str] = frozenset()) -> Iterator[Arena]:
    """Starts all of them, or those named; ends all."""
    prepared = state.prepare(directory)
    logs = directory / "logs"
    logs.mkdir(exist_ok=True)
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(directory / "redis-server"))
        on_redis, settings = state.on_redis(prepared, f"redis://{redis.address}/0")
        model_server = stack.enter_context(serve_model(prepared, log=logs / "model-server.log"))
        naive = ("loadtest.compare.naive", model_server.address, str(on_redis / "feast"))
        floor = ("loadtest.compare.floor", model_server.address, f"redis://{redis.address}/0")
        modules = {
            NAIVE: naive,
            CACHE: (*naive, "cache"),
            FLOOR: (*floor, str(prepared / "features" / "item_stats.parquet")),
        }
        contenders = {}
        for name, (module, *arguments) in modules.items():
            if not only or name in only:
                address = free_address()
                words = [sys.executable, "-m", module, address, *arguments]
                log = logs / f"{name}.log"
                contenders[name] = stack.enter_context(running(name, words, address, log=log))
        for name, where, environ in ((OURS, on_redis, settings), (SQLITE, prepared, {})):
            if not only or name in only:
                log = logs / f"{name}.log"
                contenders[name] = stack.enter_context(serve_gateway(where, model_server, environ, log=log))
        yield Arena(contenders=contenders, model_server=model_server, redis=redis)


@contextmanager
def serve_model(where: Path, *, log: Path | None = None, port: str = "") -> Iterator[Server]:
    address = f"127.0.0.1:{port}" if port else free_address()
    command = ("model-server", f"--port={address.rpartition(':')[2]}", "--rest_api_port=0")
    with longtail_server(command, address, {"LONGTAIL_STATE_DIR": str(where)}, log=log) as server:
        yield server


@contextmanager
def serve_gateway(
    where: Path, model_server: Server | str, environ: Mapping[str, str], *, log: Path | None = None
) -> Iterator[Server]:
    """`longtail gateway` as it is shipped, on free ports."""
    address = free_address()
    settings = {
        "LONGTAIL_STATE_DIR": str(where),
        "LONGTAIL_GATEWAY__ADDRESS": address,
        "LONGTAIL_GATEWAY__MODEL_SERVER": model_server if isinstance(model_server, str) else model_server.address,
        "LONGTAIL_GATEWAY__METRICS_ADDRESS": free_address(),
        **environ,
    }
    with longtail_server(("gateway",), address, settings, log=log) as server:
        yield server
