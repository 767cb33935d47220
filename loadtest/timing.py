"""The client interceptor that times each call and tells locust about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from loadtest.samples import OK, REJECTED, Sample
from longtail.activation.v1 import activation_pb2, feedback_pb2


@dataclass(frozen=True, slots=True)
class Due:
    """The request a caller is about to make."""

    at_s: float  # on the clock
    user_kind: str


class Timing(grpc.UnaryUnaryClientInterceptor):
    """One per caller, who sets `due` before each call; `fire` is locust's events.request.fire."""

    def __init__(self, *, fire: Callable[..., None], start_s: Callable[[], float], clock: Callable[[], float]) -> None:
        self.due = Due(0.0, "")
        self._fire = fire
        self._start_s = start_s
        self._clock = clock

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        sent_s = self._clock()
        call = continuation(details, request)
        error = call.exception()  # waits for the answer
        ended_s = self._clock()
        answer = None if error else call.result()
        sample = Sample(
            due_s=self.due.at_s - self._start_s(),
            rpc=details.method.rpartition("/")[2],
            user_kind=self.due.user_kind,
            state=state_of(answer),
            code=code_of(answer) if answer is not None else call.code().name,
            degraded=getattr(answer, "degraded", False),
            response_ms=1e3 * (ended_s - self.due.at_s),
            service_ms=1e3 * (ended_s - sent_s),
            stages_us={timing.stage: timing.duration_us for timing in getattr(answer, "timings", ())},
        )
        self._fire(
            request_type="grpc",
            name=sample.name,
            response_time=sample.response_ms,
            response_length=answer.ByteSize() if answer is not None else 0,
            response=answer,
            context={"sample": sample},
            exception=error,
        )
        return call


def state_of(answer: Any) -> str:
    """The user's state as the answer has it, in lower case; empty when it has none."""
    user_state = getattr(answer, "user_state", None)
    if user_state is None:
        return ""
    known = activation_pb2.Lifecycle.DESCRIPTOR.values_by_number.get(user_state.state)
    return known.name.removeprefix("LIFECYCLE_").lower() if known else f"state {user_state.state}"


def code_of(answer: Any) -> str:
    acks = getattr(answer, "acks", ())
    return REJECTED if any(ack.status == feedback_pb2.EventAck.STATUS_REJECTED for ack in acks) else OK
