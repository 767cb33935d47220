"""A gateway whose answers are fixed, for tests of the load test: a real grpc.aio server in a process of its own.

`python -m tests.loadtest.fixed_gateway` prints its port. A user's id decides the answer: `…-unseen-…` is new,
an even number active, an odd one dormant and degraded. Ids with `refused` get RESOURCE_EXHAUSTED, with `slow` wait.
"""

from __future__ import annotations

import asyncio
import sys

import grpc
import grpc.aio

from longtail.activation.v1 import activation_pb2, activation_pb2_grpc, feedback_pb2, feedback_pb2_grpc

SLOW_S = 0.3


def user_state(user_id: str) -> activation_pb2.UserState:
    if "-unseen-" in user_id:
        return activation_pb2.UserState(state=activation_pb2.LIFECYCLE_NEW)
    odd = int(user_id.rpartition("-")[2]) % 2
    return activation_pb2.UserState(state=activation_pb2.LIFECYCLE_DORMANT if odd else activation_pb2.LIFECYCLE_ACTIVE)


class FixedActivation(activation_pb2_grpc.ActivationServiceServicer):
    async def RankItems(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        if "refused" in request.user_id:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no permit is free")
        if "slow" in request.user_id:
            await asyncio.sleep(SLOW_S)
        state = user_state(request.user_id)
        return activation_pb2.RankItemsResponse(
            user_state=state,
            degraded=state.state == activation_pb2.LIFECYCLE_DORMANT,
            timings=[
                activation_pb2.StageTiming(stage="features", duration_us=1500),
                activation_pb2.StageTiming(stage="score", duration_us=2500),
            ],
        )

    async def BatchRankItems(self, requests, context):  # type: ignore[no-untyped-def]  # noqa: N802
        async for request in requests:
            yield await self.RankItems(request, context)  # type: ignore[no-untyped-call]

    async def GetUserState(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        return activation_pb2.GetUserStateResponse(user_state=user_state(request.user_id))

    async def SelectUsers(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        for user_id in request.user_ids:
            yield activation_pb2.UserDecision(user_id=user_id)

    async def ExplainDecision(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        return activation_pb2.ExplainDecisionResponse()


class FixedFeedback(feedback_pb2_grpc.FeedbackServiceServicer):
    async def RecordEvents(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        accepted = feedback_pb2.EventAck.STATUS_ACCEPTED
        return feedback_pb2.RecordEventsResponse(
            acks=[feedback_pb2.EventAck(event_id=event.event_id, status=accepted) for event in request.events]
        )


async def serve() -> None:
    server = grpc.aio.server()
    activation_pb2_grpc.add_ActivationServiceServicer_to_server(FixedActivation(), server)
    feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(FixedFeedback(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve())
