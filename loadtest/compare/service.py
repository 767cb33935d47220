"""RankItems as one function, for baselines that answer nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from longtail.activation.v1 import activation_pb2 as pb


def service(rank: Callable[[pb.RankItemsRequest, Any], Any]) -> grpc.GenericRpcHandler:
    handler = grpc.unary_unary_rpc_method_handler(
        rank,
        request_deserializer=pb.RankItemsRequest.FromString,
        response_serializer=pb.RankItemsResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("longtail.activation.v1.ActivationService", {"RankItems": handler})
