"""How soon the two servers are ready and how much memory they hold: `python -m loadtest.footprint`.

Starts `longtail model-server` and `longtail gateway` on free ports over an existing state directory, as `make demo`
leaves it, several rounds; asks the gateway for rankings; prints medians beside the budget. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc

from loadtest.processes import free_address, longtail_server, resident_mb
from longtail.activation.v1 import activation_pb2, activation_pb2_grpc

READY_BUDGET_S = {"gateway": 8.0, "model-server": float("inf")}
RESIDENT_BUDGET_MB = {"gateway": 400.0, "model-server": 1200.0}


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Of one process in one round."""

    ready_s: float
    resident_mb: float


def measure(state_dir: Path, *, requests: int) -> dict[str, Footprint]:
    """One round: both servers from start to `requests` rankings. Memory is what is resident after them."""
    model_address, gateway_address = free_address(), free_address()
    port = model_address.rpartition(":")[2]
    model_command = ["model-server", f"--port={port}", "--rest_api_port=0"]
    environ = {
        "LONGTAIL_STATE_DIR": str(state_dir),
        "LONGTAIL_GATEWAY__ADDRESS": gateway_address,
        "LONGTAIL_GATEWAY__MODEL_SERVER": model_address,
        "LONGTAIL_GATEWAY__METRICS_ADDRESS": "",
    }
    with (
        longtail_server(model_command, model_address, environ) as model,
        longtail_server(["gateway"], gateway_address, environ) as gateway,
        grpc.insecure_channel(gateway_address) as channel,
    ):
        stub = activation_pb2_grpc.ActivationServiceStub(channel)
        for number in range(requests):
            stub.RankItems(activation_pb2.RankItemsRequest(user_id=str(number)), timeout=10)
        return {
            "model-server": Footprint(ready_s=model.ready_s, resident_mb=resident_mb(model.pid)),
            "gateway": Footprint(ready_s=gateway.ready_s, resident_mb=resident_mb(gateway.pid)),
        }


def main() -> int:
    """Prints the table; exits 1 when a budget is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state-dir", type=Path, default=Path("var"), help="as `make demo` leaves it (default: var)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=500, help="rankings asked in each round")
    options = parser.parse_args()
    rounds = [measure(options.state_dir, requests=options.requests) for _ in range(options.rounds)]
    within = True
    sys.stdout.write(f"process        ready s (budget)   resident MB (budget)   medians of {options.rounds} rounds\n")
    for name in ("gateway", "model-server"):
        ready_s = statistics.median(each[name].ready_s for each in rounds)
        resident = statistics.median(each[name].resident_mb for each in rounds)
        within &= ready_s <= READY_BUDGET_S[name] and resident <= RESIDENT_BUDGET_MB[name]
        ready, memory = f"{ready_s:7.2f} ({READY_BUDGET_S[name]:g})", f"{resident:9.0f} ({RESIDENT_BUDGET_MB[name]:g})"
        sys.stdout.write(f"{name:<14} {ready:<18} {memory}\n")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
