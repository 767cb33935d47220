"""Exit code 0 when the gRPC server at HOST:PORT says SERVING: the health check of the containers.

`healthy.py HOST:PORT [CA_FILE [CERT_FILE KEY_FILE]]`: with a CA over TLS, with a certificate over mTLS.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def channel_to(address: str, files: list[str]) -> grpc.Channel:
    if not files:
        return grpc.insecure_channel(address)
    authorities, certificate, key = [*(Path(file).read_bytes() for file in files), None, None][:3]
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authorities, key, certificate))


def main(address: str, *files: str) -> int:
    with channel_to(address, list(files)) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3)
        except grpc.RpcError as error:
            sys.stderr.write(f"{address}: {error.code().name}\n")
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    sys.stdout.write(f"{address}: {status}\n")
    return 0 if status == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
