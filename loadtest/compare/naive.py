"""The baseline: what one writes in an afternoon. `python -m loadtest.compare.naive ADDRESS MODEL_SERVER REPO [cache]`.

Synchronous gRPC with ten threads; two `get_online_features(...).to_dict()`, one for the user and one for the items;
`make_tensor_proto` and `make_ndarray`; a sort in Python. With `cache`, item features are kept in a dict once read.
"""

from __future__ import annotations

import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from operator import sub
from typing import Any, Final

import feast
import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from loadtest.compare.service import service
from longtail.activation.v1 import activation_pb2 as pb

HISTORY: Final = 50
EMBEDDING: Final = 64
THREADS: Final = 10
DAY_S: Final = 86_400.0


class Naive:
    def __init__(self, repository: str, model_server: str, *, caches: bool) -> None:
        self._store = feast.FeatureStore(repo_path=repository)
        self._user_service = self._store.get_feature_service("user_features_v1")
        self._item_service = self._store.get_feature_service("item_features_v1")
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(model_server)).Predict
        self._cache: dict[str, dict[str, Any]] | None = {} if caches else None

    def rank(self, request: pb.RankItemsRequest, context: Any) -> pb.RankItemsResponse:
        item_ids = list(request.candidate_item_ids)
        user = self._store.get_online_features(
            features=self._user_service, entity_rows=[{"user_id": request.user_id}]
        ).to_dict()
        items = self._items(item_ids)
        scores = self._scores(user, item_ids)
        ranked = sorted(
            (
                (score * (item["novelty_bits"] or 1.0) ** 0.1, item_id)
                for score, item, item_id in zip(scores, items, item_ids, strict=True)
            ),
            reverse=True,
        )
        return pb.RankItemsResponse(
            items=[
                pb.RankedItem(item_id=item_id, rank=rank, value=value)
                for rank, (value, item_id) in enumerate(ranked[: request.limit], start=1)
            ]
        )

    def _items(self, item_ids: list[str]) -> list[dict[str, Any]]:
        if self._cache is None:
            return self._read(item_ids)
        missing = [item_id for item_id in item_ids if item_id not in self._cache]
        if missing:
            self._cache.update(zip(missing, self._read(missing), strict=True))
        return [self._cache[item_id] for item_id in item_ids]

    def _read(self, item_ids: list[str]) -> list[dict[str, Any]]:
        columns = self._store.get_online_features(
            features=self._item_service, entity_rows=[{"item_id": item_id} for item_id in item_ids]
        ).to_dict()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _scores(self, user: dict[str, list[Any]], item_ids: list[str]) -> list[float]:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "longtail"
        for name, array in inputs(user, item_ids, now_s=time.time()).items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        response = self._predict(request, 5.0)
        return [float(score) for score in tf.make_ndarray(response.outputs["scores"])[0]]


def inputs(user: dict[str, list[Any]], item_ids: list[str], *, now_s: float) -> dict[str, Any]:
    """The model's inputs of one user, as arrays."""

    def padded(name: str, blank: Any) -> list[Any]:
        values = list(user[name][0] or [])[:HISTORY]
        return values + [blank] * (HISTORY - len(values))

    def number(name: str) -> float:
        value = user[name][0]
        return math.nan if value is None else float(value)

    types = user["count_event_types"][0] or []
    kinds = [types[place] for place in user["history_type_places"][0] or []][:HISTORY]
    times = list(accumulate(user["history_gaps_s"][0] or [], sub))[:HISTORY]
    delta = user["delta"][0] or [0.0] * (EMBEDDING + 1)
    features = [
        math.log1p(number("events")),
        math.log1p(number("active_days")),
        *(number(name) for name in ("mean_gap_days", "visits_7d", "visits_28d", "visits_90d")),
        *((now_s - number(name)) / DAY_S for name in ("last_seen_unix_s", "first_seen_unix_s")),
    ]
    return {
        "history_item_ids": np.array([padded("history_item_ids", "")]),
        "history_event_types": np.array([kinds + [""] * (HISTORY - len(kinds))]),
        "history_age_s": np.array([[now_s - t for t in times] + [0.0] * (HISTORY - len(times))], np.float32),
        "user_features": np.array([features], np.float32),
        "user_weights": np.array([delta], np.float32),
        "user_weights_version": np.array([user["model_version"][0] or 0], np.int64),
        "candidate_item_ids": np.array([item_ids]),
    }


def main() -> int:
    address, model_server, repository, *options = sys.argv[1:]
    server = grpc.server(ThreadPoolExecutor(THREADS))
    naive = Naive(repository, model_server, caches="cache" in options)
    server.add_generic_rpc_handlers((service(naive.rank),))
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()
    return 0


if __name__ == "__main__":
    sys.exit(main())
