"""A server that speaks TensorFlow Serving's messages without TensorFlow, and misbehaves on request.

Its model scores a candidate by the number at the end of its id: "x25" has 0.25.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import grpc

from feature_repo.contract import MODEL_USER_FEATURES
from longtail.tfserving import message_class
from serving.gateway.scoring import tensors

HISTORY, EMBEDDING = 50, 4
SERVICE = "tensorflow.serving.PredictionService"

PredictRequest = message_class("tensorflow.serving.PredictRequest")
PredictResponse = message_class("tensorflow.serving.PredictResponse")
MetadataRequest = message_class("tensorflow.serving.GetModelMetadataRequest")
MetadataResponse = message_class("tensorflow.serving.GetModelMetadataResponse")
SignatureDefMap = message_class("tensorflow.serving.SignatureDefMap")

Specs = dict[str, dict[str, Any]]

USER_INPUTS: Specs = {
    "history_item_ids": {"dtype": "DT_STRING", "shape": [-1, HISTORY]},
    "history_event_types": {"dtype": "DT_STRING", "shape": [-1, HISTORY]},
    "history_age_s": {"dtype": "DT_FLOAT", "shape": [-1, HISTORY]},
    "user_features": {"dtype": "DT_FLOAT", "shape": [-1, len(MODEL_USER_FEATURES)]},
    "user_weights": {"dtype": "DT_FLOAT", "shape": [-1, EMBEDDING + 1]},
    "user_weights_version": {"dtype": "DT_INT64", "shape": [-1]},
}
CANDIDATES: Specs = {"candidate_item_ids": {"dtype": "DT_STRING", "shape": [-1, -1]}}
SCORES: Specs = {"scores": {"dtype": "DT_FLOAT", "shape": [-1, -1]}}
RETRIEVED: Specs = {
    "item_ids": {"dtype": "DT_STRING", "shape": [-1, 3]},
    "scores": {"dtype": "DT_FLOAT", "shape": [-1, 3]},
}


def signatures() -> dict[str, dict[str, Specs]]:
    """A copy that a test may change."""
    return deepcopy(
        {
            "serving_default": {"inputs": USER_INPUTS | CANDIDATES, "outputs": SCORES},
            "retrieve": {"inputs": USER_INPUTS, "outputs": RETRIEVED},
        }
    )


def contract(version: int = 1, **changes: Any) -> dict[str, Any]:
    """contract.json of the tiny model."""
    return {
        "format": 1,
        "model_name": "tiny",
        "model_version": version,
        "signatures": signatures(),
        "history_length": HISTORY,
        "candidate_buckets": [4, 16],
        "retrieve_k": 3,
        "embedding_size": EMBEDDING,
        "user_features": list(MODEL_USER_FEATURES),
        "num_items": 100,
        "training_window": {"start": "", "end": ""},
        "metrics": {},
        "git_revision": "",
        **changes,
    }


@dataclass(kw_only=True)
class TinyModel:
    """What is served, what was asked, and what goes wrong."""

    version: int = 1
    signatures: dict[str, dict[str, Specs]] = field(default_factory=signatures)
    asked: list[Any] = field(default_factory=list)
    delay_s: float = 0.0
    refuse: tuple[grpc.StatusCode, str] | None = None
    spoil: Callable[[Any], None] | None = None
    labels: dict[str, int] = field(default_factory=dict)  # versions by label; `version` is the latest
    skew: dict[int, float] = field(default_factory=dict)  # what a version adds to each score
    delays_s: dict[int, float] = field(default_factory=dict)
    metadata_received: tuple[Any, ...] = ()
    address: str = ""

    async def predict(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        self.metadata_received = tuple(context.invocation_metadata() or ())
        version = await self._version(request, context)
        await asyncio.sleep(self.delays_s.get(version, self.delay_s))
        if self.refuse is not None:
            await context.abort(*self.refuse)
        response = PredictResponse(
            model_spec={
                "name": request.model_spec.name,
                "version": {"value": version},
                "signature_name": request.model_spec.signature_name,
            }
        )
        if request.model_spec.signature_name == "retrieve":
            rows = request.inputs["user_weights_version"].tensor_shape.dim[0].size
            response.outputs["item_ids"].CopyFrom(tensors.from_strings([["x90", "x50"]] * rows, 3))
        else:
            candidates = [one.decode() for one in request.inputs["candidate_item_ids"].string_val]
            scores = [_score(one) + self.skew.get(version, 0.0) for one in candidates]
            tensor = {
                "dtype": tensors.DT_FLOAT,
                "tensor_shape": request.inputs["candidate_item_ids"].tensor_shape,
                "float_val": scores,
            }
            response.outputs["scores"].CopyFrom(tensors.TensorProto(**tensor))
        if self.spoil is not None:
            self.spoil(response)
        return response

    async def metadata(self, request: Any, context: Any) -> Any:
        if self.refuse is not None:
            await context.abort(*self.refuse)
        version = await self._version(request, context)
        described = {
            name: {part: {alias: _info(spec) for alias, spec in specs.items()} for part, specs in signature.items()}
            for name, signature in self.signatures.items()
        }
        described["__saved_model_init_op"] = {"inputs": {}, "outputs": {}}
        response = MetadataResponse(model_spec={"name": request.model_spec.name, "version": {"value": version}})
        response.metadata["signature_def"].Pack(SignatureDefMap(signature_def=described))
        return response

    async def _version(self, request: Any, context: Any) -> int:
        spec = request.model_spec
        if spec.version_label and self.labels and spec.version_label not in self.labels:
            text = f"Unrecognized servable version label: {spec.version_label}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        return self.labels.get(spec.version_label) or spec.version.value or self.version


@asynccontextmanager
async def serving(model: TinyModel, *, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Yields the address."""
    server = grpc.aio.server()
    methods = {
        "Predict": _method(model.predict, PredictRequest, PredictResponse),
        "GetModelMetadata": _method(model.metadata, MetadataRequest, MetadataResponse),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def _method(answer: Any, request: Any, response: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=request.FromString, response_serializer=response.SerializeToString
    )


def _score(item_id: str) -> float:
    number = re.search(r"\d+$", item_id)
    return int(number[0]) / 100 if number else 0.0


def _shape(*sizes: int) -> dict[str, Any]:
    return {"dim": [{"size": size} for size in sizes]}


def _info(spec: dict[str, Any]) -> dict[str, Any]:
    return {"dtype": spec["dtype"], "tensor_shape": _shape(*spec["shape"])}
