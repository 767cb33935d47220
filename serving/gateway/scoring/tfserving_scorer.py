"""The model behind TensorFlow Serving's PredictionService, without TensorFlow."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import numpy as np

from longtail.tfserving import message_class
from serving.gateway.domain import Float32s, ItemId, ModelUser, ModelVersion, Scores
from serving.gateway.errors import Cause, ModelError
from serving.gateway.load.coalescing import Coalescer
from serving.gateway.observing import tracing
from serving.gateway.scoring import tensors
from serving.gateway.scoring.model_contract import (
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
from serving.gateway.scoring.model_inputs import candidate_inputs, user_inputs

PredictRequest: Final = message_class("tensorflow.serving.PredictRequest")
PredictResponse: Final = message_class("tensorflow.serving.PredictResponse")
MetadataRequest: Final = message_class("tensorflow.serving.GetModelMetadataRequest")
MetadataResponse: Final = message_class("tensorflow.serving.GetModelMetadataResponse")
SignatureDefMap: Final = message_class("tensorflow.serving.SignatureDefMap")
LOW_USERS_A_CALL: Final = 16  # a call for people may have to wait for it
CELLS_A_CALL: Final = 8192  # users × candidates
PATIENCE_S: Final = 0.02  # about what a call of many users takes
SERVICE: Final = "/tensorflow.serving.PredictionService"
# A call whose connection broke is made once more: Predict changes nothing. gRPC's throttle is the budget: retries stop
# while more than half of the last calls failed, and every ten answers earn one.
RETRIES: Final = {
    "methodConfig": [
        {
            "name": [{"service": "tensorflow.serving.PredictionService"}],
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.05s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
OPTIONS: Final = (
    ("grpc.service_config", json.dumps(RETRIES)),
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    """One user's part of a Predict call. Nobody waits for it after `until_s`, monotonic."""

    user: ModelUser
    item_ids: Sequence[ItemId]
    until_s: float


_Answers = list[tuple[Float32s, int] | Exception]  # scores [candidates], and the version that gave them


class TensorFlowServing:
    """Answers are used only of versions whose signatures are those of their contract.

    Users who wait together go in one Predict call, those of one bucket of candidates with each other.
    """

    def __init__(
        self,
        address: str,
        *,
        model_name: str,
        label: str,
        contracts: Contracts,
        calls: int = 2,
        users_a_call: int = 32,
    ) -> None:
        self._model_name = model_name
        self._label = label
        self._contracts = contracts
        self._calls = calls
        self._users_a_call = users_a_call
        self._verified: dict[int, Contract] = {}
        self._current: Contract | None = None
        self.version = 0  # the version last verified
        self._verifying = asyncio.Lock()
        self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self._predict = self._method("Predict", PredictRequest, PredictResponse)
        self._metadata = self._method("GetModelMetadata", MetadataRequest, MetadataResponse)
        self._rankings: dict[int, Coalescer[_Question, tuple[Float32s, int]]] = {}  # by bucket
        self._retrievals: Coalescer[_Question, tuple[ItemId, ...]] = Coalescer(
            self._retrieve, most=users_a_call, trips=calls, patience_s=PATIENCE_S
        )

    async def score(
        self, user: ModelUser, item_ids: Sequence[ItemId], *, timeout_s: float, is_low: bool = False
    ) -> Scores:
        until_s = time.monotonic() + timeout_s
        async with _within(timeout_s):
            contract = await self._contract(timeout_s)
            bucket = contract.bucket(len(item_ids))
            ranking = self._rankings.get(bucket) or self._open(bucket)
            answers = [
                ranking.get(
                    _Question(user=user, item_ids=item_ids[start : start + bucket], until_s=until_s), is_low=is_low
                )
                for start in range(0, len(item_ids), bucket)
            ]
            found = [await answers[0]] if len(answers) == 1 else await asyncio.gather(*answers)
        values = found[0][0] if len(found) == 1 else np.concatenate([values for values, _ in found])  # [candidates]
        return Scores(values=values, model=ModelVersion(name=self._model_name, version=found[0][1], label=self._label))

    async def retrieve(self, user: ModelUser, *, timeout_s: float) -> tuple[ItemId, ...]:
        until_s = time.monotonic() + timeout_s
        async with _within(timeout_s):
            return await self._retrievals.get(_Question(user=user, item_ids=(), until_s=until_s))

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

    def _open(self, bucket: int) -> Coalescer[_Question, tuple[Float32s, int]]:
        """Calls of this bucket, few enough users in each that it stays a message of ordinary size."""

        async def rank(questions: Sequence[_Question]) -> _Answers:
            return await self._rank(questions, bucket)

        most = max(min(self._users_a_call, CELLS_A_CALL // bucket), 1)
        return self._rankings.setdefault(
            bucket,
            Coalescer(rank, most=most, most_low=LOW_USERS_A_CALL, trips=self._calls, patience_s=PATIENCE_S),
        )

    async def _rank(self, questions: Sequence[_Question], bucket: int) -> _Answers:
        timeout_s = _time_left_s(questions)
        contract = await self._contract(timeout_s)
        inputs = user_inputs(contract, [question.user for question in questions])
        inputs |= candidate_inputs([question.item_ids for question in questions], bucket)
        response = await self._ask(RANK, inputs, ("scores",), timeout_s)
        with _checked("scores"):
            scores = tensors.to_floats(response.outputs["scores"], (len(questions), bucket))  # [users, candidates]
        version = int(response.model_spec.version.value)
        is_sound = np.all((scores >= 0) & (scores <= 1), axis=1)  # [users], False for NaN
        return [
            (row[: len(question.item_ids)], version) if sound else _unsound(row)
            for question, row, sound in zip(questions, scores, is_sound, strict=True)
        ]

    async def _retrieve(self, questions: Sequence[_Question]) -> list[tuple[ItemId, ...] | Exception]:
        timeout_s = _time_left_s(questions)
        contract = await self._contract(timeout_s)
        inputs = user_inputs(contract, [question.user for question in questions])
        response = await self._ask(RETRIEVE, inputs, ("item_ids",), timeout_s)
        with _checked("item_ids"):
            found = tensors.to_strings(response.outputs["item_ids"], len(questions))
        return [tuple(ItemId(item_id) for item_id in row if item_id) for row in found]

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


def _time_left_s(questions: Sequence[_Question]) -> float:
    """Of the one who waits longest; the others give up by themselves."""
    return max(max(question.until_s for question in questions) - time.monotonic(), 0.0)


def _unsound(scores: Float32s) -> ModelError:
    if not np.isfinite(scores).all():
        what = f"{int((~np.isfinite(scores)).sum())} of {scores.size} values are NaN or infinite"
    else:
        what = f"between {scores.min():g} and {scores.max():g}, not in [0, 1]"
    return ModelError(Cause.BAD_ANSWER, f"scores: {what}")


async def _call(method: Any, request: Any, timeout_s: float) -> Any:
    try:
        with tracing.calling("tensorflow.serving.PredictionService"):
            return await method(request, timeout=timeout_s, metadata=tracing.outgoing())
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
