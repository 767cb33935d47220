"""Several gateway processes on one port: what a caller, an operator and Prometheus see of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from feature_repo.decisions import records
from feature_repo.decisions.segments import close_segments
from feature_repo.layout import StateDir
from feature_repo.online import store
from feature_repo.settings import FeatureSettings
from loadtest.processes import free_address
from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import activation_pb2_grpc, feedback_pb2, feedback_pb2_grpc
from serving.gateway.running.workers import hold_port
from serving.worker_counts import told_workers
from tests.gateway.test_gateway_process import STARTUP_S, environ, longtail, make_items

CALLS = 40


class Pool:
    """A gateway with two workers."""

    def __init__(self, state: StateDir) -> None:
        self.state = state
        self.metrics = free_address()
        self.policy = state.root / "policy.toml"
        self.policy.write_text('name = "good"')
        env = environ(state, metrics_address=self.metrics, policy_path=str(self.policy))
        command = [sys.executable, "-m", "cli.main", "gateway", "--workers", "2"]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "ready at" in line
        self.address = line.split()[-1]

    def workers(self) -> set[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {int(pid) for pid in listed}

    def connect(self) -> grpc.Channel:
        """A connection of its own: the kernel chooses the worker by it."""
        return grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])

    def ranked(self) -> float:
        with urllib.request.urlopen(f"http://{self.metrics}/metrics") as page:
            lines = page.read().decode().splitlines()
        found = [line for line in lines if line.startswith('longtail_requests_total{code="OK",method="RankItems"')]
        return sum(float(line.rpartition(" ")[2]) for line in found)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    state = StateDir(tmp_path_factory.mktemp("state"))
    store.apply(state, FeatureSettings())
    make_items(state)
    running = Pool(state)
    yield running
    if running.process.poll() is None:
        running.process.terminate()
        running.process.wait(STARTUP_S)


def until(holds: Callable[[], bool]) -> None:
    limit_s = time.monotonic() + STARTUP_S
    while not holds():
        assert time.monotonic() < limit_s
        time.sleep(0.05)


def test_two_workers_answer_on_one_port_and_their_metrics_are_summed(pool: Pool) -> None:
    assert len(pool.workers()) == 2
    for place in range(CALLS):
        with pool.connect() as channel:
            request = pb.RankItemsRequest(user_id=f"u{place}", candidate_item_ids=["a", "b"])
            activation_pb2_grpc.ActivationServiceStub(channel).RankItems(request, timeout=10)
    assert pool.ranked() == CALLS

    def segments() -> list[Path]:
        return [path for path in records.segments(pool.state.decisions) if path.stat().st_size]

    until(lambda: records.read(pool.state.decisions, columns=["decision_id"]).num_rows == CALLS)
    assert len(segments()) == 2, "each writes a segment of its own"
    assert close_segments(pool.state.decisions) == 0, "and holds it"


def test_status_tells_how_many_workers_there_are_where_their_metrics_are_known(pool: Pool) -> None:
    env = environ(pool.state, address=pool.address, metrics_address=pool.metrics)
    elsewhere = environ(pool.state, metrics_address=pool.metrics)
    assert "workers 2 of 2 ready" in longtail("status", env=env).stdout
    named = ("status", "--address", pool.address)
    assert "workers unknown; give --metrics" in longtail(*named, env=elsewhere).stdout, (
        "those may be of another gateway"
    )
    assert "workers 2 of 2 ready" in longtail(*named, "--metrics", pool.metrics, env=elsewhere).stdout
    gone = longtail(*named, "--metrics", free_address(), env=env)
    assert gone.returncode == 0
    assert "workers unknown; no metrics at" in gone.stdout


def test_an_event_that_any_worker_took_is_applied_once(pool: Pool) -> None:
    acks = []
    for place in range(8):
        with pool.connect() as channel:
            event = feedback_pb2.Event(
                event_id=f"e{place % 4}", user_id="fan", item_id=f"item{place % 4}", event_type="click"
            )
            answer = feedback_pb2_grpc.FeedbackServiceStub(channel).RecordEvents(
                feedback_pb2.RecordEventsRequest(events=[event]), timeout=10
            )
            acks.append(answer.acks[0].status)
    assert acks == [feedback_pb2.EventAck.STATUS_ACCEPTED] * 4 + [feedback_pb2.EventAck.STATUS_DUPLICATE] * 4
    with pool.connect() as channel:
        stub = activation_pb2_grpc.ActivationServiceStub(channel)

        def known() -> list[str]:
            state = stub.GetUserState(pb.GetUserStateRequest(user_id="fan"), timeout=10)
            return sorted(behavior.item_id for behavior in state.history)

        until(lambda: known() == ["item0", "item1", "item2", "item3"])


def test_a_worker_that_is_killed_while_the_policy_is_broken_gets_a_successor_that_decides_alike(pool: Pool) -> None:
    pool.policy.write_text('name = "bad"\nunknown = 1')
    before = pool.workers()
    os.kill(max(before), signal.SIGKILL)
    until(lambda: len(pool.workers() - before) == 1)
    until(lambda: told_workers(pool.metrics).startswith("2 of 2 ready"))
    os.kill(min(before), signal.SIGKILL)  # so that the successor answers
    with pool.connect() as channel:
        request = pb.RankItemsRequest(user_id="u", candidate_item_ids=["a"])
        answer = activation_pb2_grpc.ActivationServiceStub(channel).RankItems(request, timeout=10, wait_for_ready=True)
    assert answer.policy_version.startswith("good@")
    pool.policy.write_text('name = "good"')
    until(lambda: told_workers(pool.metrics).startswith("2 of 2 ready"))


def test_a_worker_that_is_killed_gets_a_successor_and_all_drain_together(pool: Pool) -> None:
    before = pool.workers()
    os.kill(min(before), signal.SIGKILL)
    until(lambda: told_workers(pool.metrics).startswith("1 of 2 ready"))
    until(lambda: len(pool.workers() - before) == 1)
    with pool.connect() as channel:
        request = pb.RankItemsRequest(user_id="u", candidate_item_ids=["a"])
        until(lambda: bool(activation_pb2_grpc.ActivationServiceStub(channel).RankItems(request, timeout=10)))
    until(lambda: told_workers(pool.metrics).startswith("2 of 2 ready"))
    left = pool.workers()
    pool.process.send_signal(signal.SIGTERM)
    assert pool.process.wait(STARTUP_S) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)


def test_a_hangup_while_workers_start_ends_none(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    store.apply(state, FeatureSettings())
    command = [sys.executable, "-m", "cli.main", "gateway", "--workers", "2"]
    env = environ(state)
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(lambda: len(children.read_text().split()) == 2)
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None
        assert "ready at" in process.stdout.readline()
        process.terminate()


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_in_use_is_told_before_any_worker_starts(tmp_path: Path, shared: bool) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env = environ(StateDir(tmp_path), address=f"127.0.0.1:{taken.getsockname()[1]}")
        command = [sys.executable, "-m", "cli.main", "gateway", "--workers", "2"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=STARTUP_S, check=False)
    assert done.returncode == 1
    assert "cannot listen on 127.0.0.1" in done.stderr


def test_workers_may_share_a_port_with_other_gateways_that_do() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        hold_port(*taken.getsockname(), beside_others=True).close()


def test_a_port_whose_connections_ended_a_moment_ago_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as connection:
            accepted, _ = listener.accept()
            accepted.close()  # the side that closes first keeps the port for a while
            assert not connection.recv(1)
    hold_port(*address, beside_others=False).close()
