"""Ranks items for one user, and tells the gateway that the first was clicked.

    python examples/python/rank.py 127.0.0.1:50051 USER_ID

With TLS: CA_FILE=ca.pem, and for mTLS CERT_FILE=client.pem KEY_FILE=client.key. With a token: TOKEN=lt_…
"""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from longtail.activation.v1 import activation_pb2, activation_pb2_grpc, feedback_pb2, feedback_pb2_grpc

# Worth another try (CANCELLED, unless you did, is a full backlog): a retry answers the same, by `idempotency_key`.
RETRIES = """{"methodConfig": [{"name": [{"service": "longtail.activation.v1.ActivationService"}], "retryPolicy": {
  "maxAttempts": 3, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
  "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"]}}]}"""


def connect(address: str) -> grpc.Channel:
    authorities, key, certificate = (pem(name) for name in ("CA_FILE", "KEY_FILE", "CERT_FILE"))
    options = (("grpc.service_config", RETRIES),)
    if authorities is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authorities, key, certificate), options=options)


def pem(variable: str) -> bytes | None:
    path = os.environ.get(variable)
    return Path(path).read_bytes() if path else None


def show(user_id: str, channel: grpc.Channel) -> None:
    token = os.environ.get("TOKEN")
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    request = activation_pb2.RankItemsRequest(
        user_id=user_id, limit=5, surface="home", idempotency_key=str(uuid.uuid4())
    )
    answer = activation_pb2_grpc.ActivationServiceStub(channel).RankItems(request, timeout=1, metadata=metadata)
    for cause in answer.degraded_causes:
        sys.stderr.write(f"degraded: {cause.dependency}: {cause.cause}\n")
    for item in answer.items:
        sys.stdout.write(f"{item.rank} {item.item_id} {item.value:.4f}\n")
    if not answer.items:
        return
    clicked = feedback_pb2.Event(
        event_id=str(uuid.uuid4()),
        user_id=user_id,
        item_id=answer.items[0].item_id,
        event_type="click",
        decision_id=answer.decision_id,
    )
    recorded = feedback_pb2_grpc.FeedbackServiceStub(channel).RecordEvents(
        feedback_pb2.RecordEventsRequest(events=[clicked]), timeout=1, metadata=metadata
    )
    sys.stdout.write(f"{feedback_pb2.EventAck.Status.Name(recorded.acks[0].status)}\n")


def explain(error: grpc.RpcError) -> str:
    """The code and the text; the fields that are wrong, where the gateway names them."""
    lines = [f"{error.code().name}: {error.details()}"]
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            lines += [f"  {violation.field}: {violation.description}" for violation in bad.field_violations]
    return "\n".join(lines)


def main() -> int:
    address, user_id = (*sys.argv[1:], *("127.0.0.1:50051", "42")[len(sys.argv) - 1 :])
    with connect(address) as channel:
        try:
            show(user_id, channel)
        except grpc.RpcError as error:
            sys.stderr.write(f"{explain(error)}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
