"""One installation of longtail in one world: its log, its features, the gateway before it, and the world's clock."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feature_repo.errors import LongtailError
from feature_repo.layout import StateDir
from feature_repo.online.materialize import materialize
from feature_repo.online.store import apply, open_store
from feature_repo.settings import FeatureSettings
from feature_repo.tables.build import build
from longtail.activation.v1 import activation_pb2_grpc, feedback_pb2, feedback_pb2_grpc
from serving.gateway.settings import GatewaySettings
from simulator.clocked_gateway import Config, set_clock
from simulator.world import Act, World, item_id, user_id

EVENTS_AT_ONCE: Final = 1000
READY_S: Final = 120.0
CALL_S: Final = 60.0


class SimulationError(LongtailError):
    """The simulation could not go on."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """`activation` and `feedback` are the gateway's, over gRPC."""

    state: StateDir
    clock: Path
    activation: activation_pb2_grpc.ActivationServiceStub
    feedback: feedback_pb2_grpc.FeedbackServiceStub

    def at(self, moment: datetime) -> None:
        set_clock(self.clock, moment.timestamp())

    def nightly(self, moment: datetime) -> None:
        """What a product runs each night: features of the moment, into the online store."""
        rebuild(self.state, moment)

    def record(self, events: Sequence[feedback_pb2.Event]) -> None:
        """Raises SimulationError unless each is on disk."""
        for first in range(0, len(events), EVENTS_AT_ONCE):
            request = feedback_pb2.RecordEventsRequest(events=events[first : first + EVENTS_AT_ONCE])
            for ack in self.feedback.RecordEvents(request, timeout=CALL_S).acks:
                if ack.status != feedback_pb2.EventAck.STATUS_ACCEPTED:
                    raise SimulationError(f"event {ack.event_id} was not taken: {ack.error or 'known already'}")


def rebuild(state: StateDir, moment: datetime) -> None:
    settings = FeatureSettings()
    build(state, settings, as_of=moment)
    materialize(state, open_store(state, settings))


def prepare(state: StateDir, world: World, past: Sequence[Act], *, seed: int) -> None:
    """A new installation with the world's past in its log, up to the world's current evening."""
    state.root.mkdir(parents=True)
    events, items = state.root / "past.parquet", state.root / "items.parquet"
    pq.write_table(_log(past, seed), events)
    names = [item_id(item) for item in range(world.settings.items)]
    kinds = [f"taste {taste}" for taste in world.taste_of]
    pq.write_table(pa.table({"item": names, "kind": kinds}), items)
    columns = ("user=user", "item=item", "time=at", "type=type")
    longtail(state, "data", "import", str(events), "--map", *columns, "--items", str(items),
             "--map-items", "item=item", "category=kind")  # fmt: skip
    apply(state, FeatureSettings())
    rebuild(state, world.evening(world.day))


@contextmanager
def open_stage(state: StateDir, *, model_server: str, policy: str = "") -> Iterator[Stage]:
    """The gateway of an installation; `policy` is a policy file's text, by default the policy as shipped."""
    clock = state.root / "clock"
    address, config = free_address(), state.root / "gateway.json"
    settings = {"address": address, "metrics_address": "", "model_server": model_server, "item_check_s": 0.2}
    if policy:
        file = state.root / "policy.toml"
        file.write_text(policy, "utf-8")
        settings["policy_path"] = str(file)
    gateway = GatewaySettings.model_validate({**settings, "follow_feedback": False})
    config.write_text(Config(state_dir=state.root, clock=clock, gateway=gateway).model_dump_json(), "utf-8")
    words = [sys.executable, "-P", "-m", "simulator.clocked_gateway", str(config)]
    with running(words, address, log=state.root / "gateway.log"), grpc.insecure_channel(address) as channel:
        yield Stage(
            state=state,
            clock=clock,
            activation=activation_pb2_grpc.ActivationServiceStub(channel),
            feedback=feedback_pb2_grpc.FeedbackServiceStub(channel),
        )


@contextmanager
def open_model_server(state: StateDir) -> Iterator[str]:
    """`longtail model-server` over the models of an installation; gives its address."""
    address = free_address()
    words = [sys.executable, "-P", "-m", "cli.main", "--state-dir", str(state.root), "model-server",
             f"--port={address.rpartition(':')[2]}", "--rest_api_port=0"]  # fmt: skip
    with running(words, address, log=state.root / "model-server.log"):
        yield address


def copy_of(state: StateDir, root: Path) -> StateDir:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(state.root, root)
    return StateDir(root)


def longtail(state: StateDir, *arguments: str, environ: Mapping[str, str] | None = None) -> None:
    """Runs one command. Raises SimulationError with what it said last."""
    words = [sys.executable, "-P", "-m", "cli.main", "--state-dir", str(state.root), *arguments]
    ended = subprocess.run(words, env={**os.environ, **(environ or {})}, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SimulationError(f"`longtail {' '.join(arguments)}` ended with {ended.returncode}: {ended.stderr[-2000:]}")


def event_of(act: Act, *, seed: int, number: str, decision_id: str = "", surface: str = "") -> feedback_pb2.Event:
    at = Timestamp()
    at.FromDatetime(act.at)
    return feedback_pb2.Event(
        event_id=number,
        user_id=user_id(seed, act.user),
        item_id="" if act.item is None else item_id(act.item),
        event_type=act.event_type,
        event_time=at,
        decision_id=decision_id,
        surface=surface,
    )


@contextmanager
def running(words: Sequence[str], address: str, *, log: Path) -> Iterator[None]:
    """A process, once its health is SERVING; ended afterwards."""
    with log.open("ab") as output, subprocess.Popen(words, stdout=output, stderr=output) as process:
        try:
            deadline_s = time.monotonic() + READY_S
            while not _is_serving(address):
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise SimulationError(f"{words[3]} did not become ready; {log} says why")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _is_serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=0.5)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _log(acts: Sequence[Act], seed: int) -> pa.Table:
    return pa.table(
        {
            "user": [user_id(seed, act.user) for act in acts],
            "item": [item_id(act.item or 0) for act in acts],
            "at": pa.array([act.at for act in acts], pa.timestamp("us", "UTC")),
            "type": [act.event_type for act in acts],
        }
    )
