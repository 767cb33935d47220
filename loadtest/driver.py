"""Makes the load: locust headless under gevent, in a process of its own.

`python -m loadtest.driver PLAN SAMPLES`. gevent replaces the standard library's sockets and locks and gRPC's poller
for the whole process, so this one does nothing else. Prints `made failed` once a second; exit code 3 is an expected
failure, told on stderr.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import grpc.experimental.gevent  # noqa: E402

grpc.experimental.gevent.init_gevent()

import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from time import perf_counter  # noqa: E402
from typing import Any, Final  # noqa: E402

import gevent  # noqa: E402
import grpc  # noqa: E402
from locust import User, constant, task  # noqa: E402
from locust.env import Environment  # noqa: E402
from locust.exception import StopUser  # noqa: E402

from loadtest import population, samples  # noqa: E402
from loadtest.arrivals import Arrivals  # noqa: E402
from loadtest.errors import LoadTestError  # noqa: E402
from loadtest.plan import TOKEN_VARIABLE, Line, Plan  # noqa: E402
from loadtest.questions import Questions  # noqa: E402
from loadtest.samples import NOT_SENT, Sample  # noqa: E402
from loadtest.timing import Due, Timing  # noqa: E402
from longtail.activation.v1 import activation_pb2_grpc, feedback_pb2_grpc  # noqa: E402

EXPECTED_FAILURE: Final = 3
CONNECT_S: Final = 5.0
SYNTHETIC_USERS: Final = 10_000
SYNTHETIC_ITEMS: Final = 1_000


@dataclass(frozen=True, kw_only=True)
class Session:
    """What all callers share."""

    channel: grpc.Channel
    arrivals: Arrivals
    questions: Questions
    timeout_s: float
    metadata: tuple[tuple[str, str], ...]


def caller_class(session: Session) -> type[User]:
    """A locust user that takes the next due request, waits for its moment, and asks."""

    class Caller(User):
        wait_time = constant(0)  # the arrivals pace the callers

        def __init__(self, environment: Environment) -> None:
            super().__init__(environment)
            self.timing = Timing(
                fire=environment.events.request.fire, start_s=lambda: session.arrivals.start_s, clock=perf_counter
            )
            channel = grpc.intercept_channel(session.channel, self.timing)
            activation = activation_pb2_grpc.ActivationServiceStub(channel)
            self.calls: Mapping[str, Any] = {
                "RankItems": activation.RankItems,
                "GetUserState": activation.GetUserState,
                "RecordEvents": feedback_pb2_grpc.FeedbackServiceStub(channel).RecordEvents,
            }

        @task
        def ask(self) -> None:
            due_s = session.arrivals.take()
            if due_s is None:
                raise StopUser
            question = session.questions.draw()
            gevent.sleep(max(0.0, due_s - perf_counter()))
            self.timing.due = Due(due_s, question.user_kind)
            try:
                self.calls[question.rpc](question.message, timeout=session.timeout_s, metadata=session.metadata)
            except grpc.RpcError:
                return  # the interceptor has told locust already

    return Caller


def run(plan: Plan) -> list[Sample]:
    """Makes the load that the plan asks for; bounded by its duration, one deadline, and a little grace."""
    profile = plan.profile
    channel = connect(plan.address, plan.line)
    arrivals = Arrivals(
        rate_per_s=None if profile.closed_loop else profile.rate_per_s,
        duration_s=profile.duration_s,
        seed=plan.seed,
        clock=perf_counter,
    )
    token = os.environ.get(TOKEN_VARIABLE, "")
    session = Session(
        channel=channel,
        arrivals=arrivals,
        questions=questions_of(plan),
        timeout_s=profile.timeout_ms / 1e3,
        metadata=(("authorization", f"Bearer {token}"),) if token else (),
    )
    environment = Environment(user_classes=[caller_class(session)])
    collected: list[Sample] = []
    environment.events.request.add_listener(  # type: ignore[no-untyped-call]
        lambda context, **_: collected.append(context["sample"])
    )
    runner = environment.create_local_runner()
    progress = gevent.spawn(tell_progress, environment)
    runner.start(profile.callers, spawn_rate=profile.callers)
    assert runner.spawning_greenlet
    runner.spawning_greenlet.join()
    runner.user_greenlets.join(timeout=profile.duration_s)
    untaken = arrivals.close()  # callers finish what they took, no more
    runner.user_greenlets.join(timeout=session.timeout_s + 2.0)
    runner.quit()
    progress.kill()
    channel.close()
    failures = "; ".join(failure["msg"] for failure in runner.exceptions.values())
    if failures:
        raise LoadTestError(f"the scenario itself failed: {failures}")
    return collected + [not_sent(due_s - arrivals.start_s) for due_s in untaken]


def open_channel(address: str, line: Line) -> grpc.Channel:
    if not (line.tls or line.ca_file or line.cert_file):
        return grpc.insecure_channel(address)
    authorities, key, certificate = (
        path.read_bytes() if path else None for path in (line.ca_file, line.key_file, line.cert_file)
    )
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authorities, key, certificate))


def connect(address: str, line: Line) -> grpc.Channel:
    channel = open_channel(address, line)
    try:
        grpc.channel_ready_future(channel).result(timeout=CONNECT_S)
    except grpc.FutureTimeoutError as error:
        raise LoadTestError(
            f"nothing answers gRPC at {address} within {CONNECT_S:g} s; start the gateway, or give its --address, "
            "and --ca where it speaks TLS"
        ) from error
    return channel


def questions_of(plan: Plan) -> Questions:
    users = (
        population.read_ids(plan.user_ids_file, "user_id")
        if plan.user_ids_file
        else population.synthetic_ids("user", SYNTHETIC_USERS)
    )
    items = (
        population.read_ids(plan.item_ids_file, "item_id")
        if plan.item_ids_file
        else population.synthetic_ids("item", SYNTHETIC_ITEMS)
    )
    draws = population.UserDraws(users, plan.profile.users, seed=plan.seed)
    return Questions(profile=plan.profile, users=draws, item_ids=items, seed=plan.seed)


def not_sent(due_s: float) -> Sample:
    return Sample(
        due_s=due_s, rpc="", user_kind="", state="", code=NOT_SENT, degraded=False, response_ms=0, service_ms=0
    )


def tell_progress(environment: Environment) -> None:
    while True:
        gevent.sleep(1)
        total = environment.stats.total
        sys.stdout.write(f"{total.num_requests} {total.num_failures}\n")
        sys.stdout.flush()


def main() -> int:
    plan = Plan.model_validate_json(Path(sys.argv[1]).read_text("utf-8"))
    try:
        samples.write(Path(sys.argv[2]), run(plan))
    except LoadTestError as error:
        sys.stderr.write(f"{error}\n")
        return EXPECTED_FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(main())
