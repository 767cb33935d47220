"""The model behind TensorFlow Serving's PredictionService, without TensorFlow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import grpc
import numpy as np

from longtail.tfserving import message_class
from serving.gateway import tensors
from serving.gateway.domain import ItemId, ModelUser, ModelVersion, Scores
from serving.gateway.errors import Cause, ModelError
from serving.gateway.model_contract import (
    RANK,
    RETRIEVE,
    Contract,
    ContractError,
    Contracts,
    NoContractError,
    Signature,
    TensorSpec,
    differences,
)

PredictRequest: Final = message_class("tensorflow.serving.PredictRequest")
PredictResponse: Final = message_class("tensorflow.serving.PredictResponse")
MetadataRequest: Final = message_class("tensorflow.serving.GetModelMetadataRequest")
MetadataResponse: Final = message_class("tensorflow.serving.GetModelMetadataResponse")
SignatureDefMap: Final = message_class("tensorflow.serving.SignatureDefMap")
SERVICE: Final = "/tensorflow.serving.PredictionService"
OPTIONS: Final = (
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.initial_reconnect_backoff_ms", 100),
)
CAUSES: Final = {
    grpc.StatusCode.DEADLINE_EXCEEDED: Cause.TIMEOUT,
    grpc.StatusCode.UNAVAILABLE: Cause.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Cause.UNAVAILABLE,
    grpc.StatusCode.NOT_FOUND: Cause.UNAVAILABLE,  # not loaded, yet or any more
    grpc.StatusCode.CANCELLED: Cause.UNAVAILABLE,
}

_log = logging.getLogger(__name__)


class TensorFlowServing:
    """Answers are used only of versions whose signatures are those of their contract."""

    def __init__(self, address: str, *, model_name: str, label: str, contracts: Contracts) -> None:
        self._model_name = model_name
        self._label = label
        self._contracts = contracts
        self._verified: dict[int, Contract] = {}
        self._current: Contract | None = None
        self.version = 0  # the version last verified
        self._verifying = asyncio.Lock()
        self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self._predict = self._method("Predict", PredictRequest, PredictResponse)
        self._metadata = self._method("GetModelMetadata", MetadataRequest, MetadataResponse)

    async def score(self, user: ModelUser, item_ids: Sequence[ItemId], *, timeout_s: float) -> Scores:
        async with _within(timeout_s):
            contract = await self._contract(timeout_s)
            bucket = contract.bucket(len(item_ids))
            chunks = [item_ids[start : start + bucket] for start in range(0, len(item_ids), bucket)]
            answers = await asyncio.gather(*(self._score(contract, user, chunk, timeout_s) for chunk in chunks))
        values = np.concatenate([values for values, _ in answers])  # [candidates]
        return Scores(
            values=values, model=ModelVersion(name=self._model_name, version=answers[0][1], label=self._label)
        )

    async def retrieve(self, user: ModelUser, *, timeout_s: float) -> tuple[ItemId, ...]:
        async with _within(timeout_s):
            contract = await self._contract(timeout_s)
            response = await self._ask(RETRIEVE, _user_inputs(contract, user), ("item_ids",), timeout_s)
        with _checked("item_ids"):
            found = tensors.to_strings(response.outputs["item_ids"])
        return tuple(ItemId(item_id) for item_id in found if item_id)

    async def verify(self, version: int | None = None, *, timeout_s: float) -> None:
        """Compares the signatures of a version, by default the one that is asked, with its contract."""
        request = MetadataRequest(model_spec=self._spec(version), metadata_field=["signature_def"])
        response = await _call(self._metadata, request, timeout_s)
        served_version = response.model_spec.version.value
        try:
            contract = self._contracts.of(served_version)
        except NoContractError as error:
            raise ModelError(Cause.UNAVAILABLE, str(error)) from error
        except ContractError as error:
            raise ModelError(Cause.CONTRACT_MISMATCH, str(error)) from error
        found = differences(contract, _signatures(response))
        if found:
            self._current = None
            raise ModelError(Cause.CONTRACT_MISMATCH, f"version {served_version}: {'; '.join(found)}")
        if served_version != self.version:
            _log.info("model %s version %d follows its contract", self._model_name, served_version)
        self._verified = {**dict(list(self._verified.items())[-3:]), served_version: contract}
        self._current, self.version = contract, served_version

    async def close(self) -> None:
        await self._channel.close()

    def _method(self, name: str, request: Any, response: Any) -> Any:
        return self._channel.unary_unary(
            f"{SERVICE}/{name}", request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )

    def _spec(self, version: int | None = None) -> dict[str, Any]:
        if version is not None:
            return {"name": self._model_name, "version": {"value": version}}
        return {"name": self._model_name, **({"version_label": self._label} if self._label else {})}

    async def _contract(self, timeout_s: float) -> Contract:
        if self._current is None:
            async with self._verifying:
                if self._current is None:
                    await self.verify(timeout_s=timeout_s)
        if self._current is None:
            raise ModelError(Cause.CONTRACT_MISMATCH, "the model was replaced by one of another contract")
        return self._current

    async def _score(
        self, contract: Contract, user: ModelUser, item_ids: Sequence[ItemId], timeout_s: float
    ) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], int]:
        bucket = contract.bucket(len(item_ids))
        padded = [*item_ids, *[""] * (bucket - len(item_ids))]
        inputs = {**_user_inputs(contract, user), "candidate_item_ids": tensors.from_strings(padded)}
        response = await self._ask(RANK, inputs, ("scores",), timeout_s)
        with _checked("scores"):
            scores = tensors.to_floats(response.outputs["scores"], (1, bucket))[0, : len(item_ids)]  # [candidates]
            if ((scores < 0) | (scores > 1)).any():
                raise tensors.BadTensorError(f"between {scores.min():g} and {scores.max():g}, not in [0, 1]")
        return scores, int(response.model_spec.version.value)

    async def _ask(self, signature: str, inputs: Mapping[str, Any], outputs: Sequence[str], timeout_s: float) -> Any:
        spec = {**self._spec(), "signature_name": signature}
        response = await _call(
            self._predict, PredictRequest(model_spec=spec, inputs=inputs, output_filter=outputs), timeout_s
        )
        version = response.model_spec.version.value
        if version not in self._verified:
            async with self._verifying:
                if version not in self._verified:
                    await self.verify(version, timeout_s=timeout_s)
        return response


def _user_inputs(contract: Contract, user: ModelUser) -> dict[str, Any]:
    """Padded as the contract says; weights of another size than the model's are none."""
    length = contract.history_length
    known = min(len(user.history_item_ids), length)
    padding = [""] * (length - known)
    age_s = np.zeros((1, length), np.float32)  # [1, history]
    age_s[0, :known] = user.history_age_s[:known]
    weights = np.zeros((1, contract.embedding_size + 1), np.float32)  # [1, embedding + 1]
    has_weights = user.user_weights.size == weights.size
    if has_weights:
        weights[0] = user.user_weights
    version = user.user_weights_version if has_weights else 0
    return {
        "history_item_ids": tensors.from_strings([*user.history_item_ids[:known], *padding]),
        "history_event_types": tensors.from_strings([*user.history_event_types[:known], *padding]),
        "history_age_s": tensors.from_floats(age_s),
        "user_features": tensors.from_floats(user.user_features[np.newaxis]),
        "user_weights": tensors.from_floats(weights),
        "user_weights_version": tensors.from_ints(np.array([version], np.int64)),
    }


async def _call(method: Any, request: Any, timeout_s: float) -> Any:
    try:
        return await method(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        cause = CAUSES.get(error.code(), Cause.BAD_ANSWER)
        raise ModelError(cause, f"{error.code().name}: {error.details()}") from error


def _signatures(response: Any) -> dict[str, Signature]:
    signatures = SignatureDefMap.FromString(response.metadata["signature_def"].value).signature_def
    return {
        name: Signature(inputs=_specs(signature.inputs), outputs=_specs(signature.outputs))
        for name, signature in signatures.items()
        if not name.startswith("__")  # TensorFlow's own
    }


def _specs(tensor_infos: Mapping[str, Any]) -> dict[str, TensorSpec]:
    dtypes = tensors.TensorProto.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number
    return {
        alias: TensorSpec(dtype=dtypes[info.dtype].name, shape=tuple(dim.size for dim in info.tensor_shape.dim))
        for alias, info in tensor_infos.items()
    }


@asynccontextmanager
async def _within(timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise ModelError(Cause.TIMEOUT, f"no answer within {timeout_s * 1000:.0f} ms") from None


@contextmanager
def _checked(output: str) -> Iterator[None]:
    try:
        yield
    except tensors.BadTensorError as error:
        raise ModelError(Cause.BAD_ANSWER, f"{output}: {error}") from error
