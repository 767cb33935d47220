"""The floor: nothing but the work itself. `python -m loadtest.compare.floor ADDRESS MODEL_SERVER REDIS_URL ITEMS`.

One HMGET of the user's hash, an item matrix made ready before, Predict with `tensor_content`, a sort in numpy. No
validation, policy, exploration, log, metrics, deadline or failure policy.
"""

from __future__ import annotations

import asyncio
import struct
import sys
import time
from itertools import accumulate
from operator import sub
from typing import Any, Final

import grpc
import mmh3
import numpy as np
import pyarrow.parquet as pq
import redis.asyncio
from feast.protos.feast.types.Value_pb2 import Value

from loadtest.compare.service import service
from longtail.activation.v1 import activation_pb2 as pb
from longtail.tfserving import message_class

HISTORY: Final = 50
EMBEDDING: Final = 64
DAY_S: Final = 86_400.0
PROJECT: Final = b"longtail"
FEATURES: Final = (
    *(
        ("user_behavior", name)
        for name in ("history_item_ids", "count_event_types", "history_type_places", "history_gaps_s")
    ),
    *(
        ("user_activity", name)
        for name in (
            "events",
            "active_days",
            "mean_gap_days",
            "visits_7d",
            "visits_28d",
            "visits_90d",
            "last_seen_unix_s",
            "first_seen_unix_s",
        )
    ),
    *(("user_weights", name) for name in ("delta", "model_version")),
)
FIELDS: Final = [struct.pack("<I", mmh3.hash(f"{view}:{name}", signed=False)) for view, name in FEATURES]

PredictRequest: Final = message_class("tensorflow.serving.PredictRequest")
PredictResponse: Final = message_class("tensorflow.serving.PredictResponse")
TensorProto: Final = message_class("tensorflow.TensorProto")
FLOAT, INT64, STRING = 1, 9, 7  # tensorflow.DataType


class Floor:
    def __init__(self, model_server: str, redis_url: str, items: str) -> None:
        self._redis = redis.asyncio.Redis.from_url(redis_url)
        table = pq.read_table(items, columns=["item_id", "novelty_bits"])
        self._row = {item_id: row for row, item_id in enumerate(table["item_id"].to_pylist())}
        self._novelty = np.append(table["novelty_bits"].to_numpy(zero_copy_only=False), 1.0) ** 0.1
        self._predict = grpc.aio.insecure_channel(model_server).unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )

    async def rank(self, request: pb.RankItemsRequest, context: Any) -> pb.RankItemsResponse:
        item_ids = request.candidate_item_ids
        found: Any = await self._redis.hmget(key_of(request.user_id), FIELDS)
        user = [None if value is None else Value.FromString(value) for value in found]
        response = await self._predict(predict_request(user, item_ids), timeout=5.0)
        rows = [self._row.get(item_id, -1) for item_id in item_ids]
        value = np.array(response.outputs["scores"].float_val, np.float32) * self._novelty[rows]
        best = np.argsort(-value)[: request.limit]
        return pb.RankItemsResponse(
            items=[
                pb.RankedItem(item_id=item_ids[place], rank=rank, value=value[place])
                for rank, place in enumerate(best.tolist(), start=1)
            ]
        )


def key_of(user_id: str) -> bytes:
    """As Feast writes it, entity key serialization 3."""
    value = user_id.encode()
    return struct.pack("<III", 1, 2, 7) + b"user_id" + struct.pack("<II", 2, len(value)) + value + PROJECT


def predict_request(user: list[Any], item_ids: Any) -> Any:
    now_s = time.time()
    behaviors, types, places, gaps = (list(getattr(value, kind).val)[:HISTORY] if value else [] for value, kind in zip(
        user[:4], (*2 * ["string_list_val"], *2 * ["int64_list_val"]), strict=True))  # fmt: skip
    events, times = [types[place] for place in places], list(accumulate(gaps, sub))
    age_s = np.zeros(HISTORY, np.float32)
    age_s[: len(times)] = now_s - np.array(times, np.float64)
    numbers = [_number(value) for value in user[4:12]]
    features = np.array(numbers, np.float64)
    features[:2] = np.log1p(features[:2])
    features[6:] = (now_s - features[6:]) / DAY_S
    delta = list(user[12].float_list_val.val) if user[12] else []
    weights = np.array(delta or [0.0] * (EMBEDDING + 1), np.float32)
    blank = [b""] * (HISTORY - len(behaviors))
    return PredictRequest(
        model_spec={"name": "longtail", "signature_name": "serving_default"},
        inputs={
            "history_item_ids": _strings([text.encode() for text in behaviors] + blank),
            "history_event_types": _strings([text.encode() for text in events] + blank),
            "history_age_s": _numbers(FLOAT, age_s),
            "user_features": _numbers(FLOAT, features.astype(np.float32)),
            "user_weights": _numbers(FLOAT, weights),
            "user_weights_version": TensorProto(
                dtype=INT64, tensor_shape={"dim": [{"size": 1}]}, int64_val=[user[13].int64_val if user[13] else 0]
            ),
            "candidate_item_ids": _strings([item_id.encode() for item_id in item_ids]),
        },
    )


def _number(value: Any) -> float:
    kind = value.WhichOneof("val") if value else None
    return float(getattr(value, kind)) if kind else float("nan")


def _strings(values: list[bytes]) -> Any:
    return TensorProto(dtype=STRING, tensor_shape={"dim": [{"size": 1}, {"size": len(values)}]}, string_val=values)


def _numbers(dtype: int, values: Any) -> Any:
    shape = {"dim": [{"size": 1}, {"size": len(values)}]}
    return TensorProto(dtype=dtype, tensor_shape=shape, tensor_content=values.tobytes())


async def serve(address: str, model_server: str, redis_url: str, items: str) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((service(Floor(model_server, redis_url, items).rank),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
