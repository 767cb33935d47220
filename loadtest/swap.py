"""What a new version of the model costs those who ask meanwhile: `python -m loadtest.swap`.

Starts `longtail model-server` and `longtail gateway` on free ports over a made-up shop, several rounds. In each,
callers ask without pause; in the middle a copy of the model is published as the next version, which the server loads,
warms up and puts in the old one's place. Prints p99 before and during it, and exits 1 when a request was lost or
degraded, or when the median ratio is over 2.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import numpy as np

from loadtest import samples, session
from loadtest.compare.state import prepare
from loadtest.plan import Plan
from loadtest.processes import free_address, longtail_server
from loadtest.profiles import Profile, RequestMix, Slo
from loadtest.samples import Sample
from longtail.activation.v1 import activation_pb2, activation_pb2_grpc

WARM_UP_S: Final = 3
PUBLISHED_AT_S: Final = 11
SEEN_FOR_S: Final = 8  # load, warm-up, swap and unload of a version take less
MOST_RATIO: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Round:
    before_p99_ms: float
    during_p99_ms: float
    asked: int
    lost: int
    degraded: int
    versions: tuple[int, int]

    @property
    def ratio(self) -> float:
        return self.during_p99_ms / self.before_p99_ms


class Models:
    """A folder of versions that one model server watches."""

    def __init__(self, directory: Path, published: Path) -> None:
        self.directory = directory
        newest = max(int(path.name) for path in published.iterdir() if path.name.isdecimal())
        self._model = published / str(newest)
        self.version = newest - 1
        self.publish()

    def publish(self) -> None:
        """The same model under the next number: what answers changes, and the answers do not."""
        self.version += 1
        copy = self.directory / f"copying-{self.version}"
        shutil.copytree(self._model, copy)
        contract = copy / "assets.extra" / "contract.json"
        contract.write_text(json.dumps(json.loads(contract.read_text()) | {"model_version": self.version}))
        copy.rename(self.directory / str(self.version))


@contextmanager
def serving(state: Path, models: Models) -> Iterator[str]:
    """Both servers; yields the gateway's address."""
    model_address, address = free_address(), free_address()
    port = model_address.rpartition(":")[2]
    command = ["model-server", f"--port={port}", "--rest_api_port=0", "--model_name=longtail"]
    command.append(f"--model_base_path={models.directory}")
    environ = {
        "LONGTAIL_STATE_DIR": str(state),
        "LONGTAIL_GATEWAY__ADDRESS": address,
        "LONGTAIL_GATEWAY__MODEL_SERVER": model_address,
        "LONGTAIL_GATEWAY__METRICS_ADDRESS": "",
    }
    with longtail_server(command, model_address, environ), longtail_server(["gateway"], address, environ):
        yield address


def measure(state: Path, directory: Path, *, callers: int) -> Round:
    models_directory = directory / "models"
    models_directory.mkdir(parents=True)
    models = Models(models_directory, state / "models" / "longtail")
    with serving(state, models) as address:
        before = answering_version(address)
        seconds = iter(range(1, sys.maxsize))

        def each_second(_made: int, _failed: int) -> None:
            if next(seconds) == PUBLISHED_AT_S:
                models.publish()

        plan = plan_for(state, address, callers=callers)
        session.run(plan, directory / "run", progress=each_second)
        after = answering_version(address)
    return judge(samples.read(directory / "run" / "samples.csv"), versions=(before, after))


def plan_for(state: Path, address: str, *, callers: int) -> Plan:
    profile = Profile(
        rate_per_s=1,
        closed_loop=True,
        callers=callers,
        duration_s=PUBLISHED_AT_S + SEEN_FOR_S,
        warmup_s=WARM_UP_S,
        requests=RequestMix(rank_candidates=1, rank_sources=0, user_state=0),
        slo=Slo(p99_ms=1000, error_rate=0, degraded_share=0),
    )
    return Plan(
        profile_name="swap",
        profile=profile,
        address=address,
        seed=1,
        user_ids_file=state / "features" / "user_activity.parquet",
        item_ids_file=state / "items" / "items.parquet",
    )


def answering_version(address: str) -> int:
    with grpc.insecure_channel(address) as channel:
        request = activation_pb2.RankItemsRequest(user_id="loadtest-swap", require_full=True)
        return int(activation_pb2_grpc.ActivationServiceStub(channel).RankItems(request, timeout=10).model.version)


def judge(made: Sequence[Sample], *, versions: tuple[int, int]) -> Round:
    """The second of publishing counts as during, and so does all after it."""
    before = [one for one in made if WARM_UP_S <= one.due_s < PUBLISHED_AT_S - 1]
    during = [one for one in made if one.due_s >= PUBLISHED_AT_S - 1]
    return Round(
        before_p99_ms=p99_ms(before),
        during_p99_ms=p99_ms(during),
        asked=len(made),
        lost=sum(one.code != samples.OK for one in made),
        degraded=sum(one.degraded for one in made),
        versions=versions,
    )


def p99_ms(asked: Sequence[Sample]) -> float:
    return float(np.percentile([one.service_ms for one in asked], 99))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="where the shop is kept for the next run; default: nowhere")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        state = prepare(options.directory or Path(scratch) / "shop")
        rounds = []
        for number in range(options.rounds):
            one = measure(state, Path(scratch) / f"round-{number}", callers=options.callers)
            sys.stdout.write(
                f"version {one.versions[0]} → {one.versions[1]}   {one.asked} asked, {one.lost} lost, "
                f"{one.degraded} degraded   p99 {one.before_p99_ms:.1f} → {one.during_p99_ms:.1f} ms, "
                f"{one.ratio:.2f} ×\n"
            )
            sys.stdout.flush()
            rounds.append(one)
    ratio = statistics.median(one.ratio for one in rounds)
    clean = not any(one.lost or one.degraded or one.versions[0] == one.versions[1] for one in rounds)
    sys.stdout.write(f"median {ratio:.2f} × (at most {MOST_RATIO:g} ×), nothing lost or degraded: {clean}\n")
    return 0 if clean and ratio <= MOST_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
