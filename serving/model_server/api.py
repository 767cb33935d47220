"""What each method answers, for any wire: messages in, messages out, ServingError for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import grpc

from longtail.tfserving import message_class
from serving.model_server import inference, signatures, tensors
from serving.model_server.catalog import Catalog
from serving.model_server.config import model_configs
from serving.model_server.errors import ServingError, invalid_argument
from serving.model_server.inference import CLASSIFY, INPUTS, REGRESS, Task
from serving.model_server.lifecycle import Version
from serving.model_server.metrics import Metrics
from serving.model_server.signatures import DEFAULT_SIGNATURE, Call
from serving.model_server.tensors import Array

PredictResponse = message_class("tensorflow.serving.PredictResponse")
ClassificationResponse = message_class("tensorflow.serving.ClassificationResponse")
RegressionResponse = message_class("tensorflow.serving.RegressionResponse")
MultiInferenceResponse = message_class("tensorflow.serving.MultiInferenceResponse")
GetModelMetadataResponse = message_class("tensorflow.serving.GetModelMetadataResponse")
GetModelStatusResponse = message_class("tensorflow.serving.GetModelStatusResponse")
ReloadConfigResponse = message_class("tensorflow.serving.ReloadConfigResponse")
SignatureDefMap = message_class("tensorflow.serving.SignatureDefMap")
ModelSpec = message_class("tensorflow.serving.ModelSpec")

SIGNATURE_DEF: Final = "signature_def"


class Batcher(Protocol):
    """Runs calls, alone or in company."""

    async def run(self, version: Version, call: Call) -> dict[str, Array]:
        """The outputs of the call. Raises ServingError."""


class ModelApi:
    """PredictionService and ModelService."""

    def __init__(
        self, catalog: Catalog, batcher: Batcher, metrics: Metrics, *, checks_method_name: bool = True
    ) -> None:
        self.catalog = catalog
        self._batcher = batcher
        self._metrics = metrics
        self._checks_method_name = checks_method_name

    async def predict(self, request: Any) -> Any:
        """PredictRequest → PredictResponse."""
        version = self.find(request)
        with version.lease() as servable:
            call = signatures.check(request, servable.signatures, checks_method_name=self._checks_method_name)
            with self._metrics.runtime(request.model_spec.name, "Predict"):
                outputs = await self._batcher.run(version, call)
        response = PredictResponse()
        _fill(response.model_spec, request.model_spec, version)
        for alias in call.outputs:
            response.outputs[alias].CopyFrom(tensors.encode(outputs[alias]))
        return response

    async def classify(self, request: Any) -> Any:
        """ClassificationRequest → ClassificationResponse."""
        return await self._infer(request, CLASSIFY, ClassificationResponse())

    async def regress(self, request: Any) -> Any:
        """RegressionRequest → RegressionResponse."""
        return await self._infer(request, REGRESS, RegressionResponse())

    async def multi_inference(self, request: Any) -> Any:
        """MultiInferenceRequest → MultiInferenceResponse; one run for all its tasks."""
        version = self.catalog.find(request.tasks[0].model_spec if request.tasks else ModelSpec())
        with version.lease() as servable:
            tasks = inference.tasks(request, servable.signatures, checks_method_name=self._checks_method_name)
            name = request.tasks[0].model_spec.name
            results = await self._run_tasks(version, tasks, request, name, "MultiInference")
        response = MultiInferenceResponse()
        for asked, task, result in zip(request.tasks, tasks, results, strict=True):
            answer = response.results.add()
            _fill(answer.model_spec, asked.model_spec, version)
            field = answer.classification_result if task.method == CLASSIFY else answer.regression_result
            field.CopyFrom(result)
        return response

    async def get_model_metadata(self, request: Any) -> Any:
        """GetModelMetadataRequest → GetModelMetadataResponse."""
        _check_has_spec(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != SIGNATURE_DEF:
                raise invalid_argument(f"Metadata field {name} is not supported")
        version = self.find(request)
        response = GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version.number
        with version.lease() as servable:
            signature_defs = SignatureDefMap(signature_def=servable.signature_defs)
        response.metadata[SIGNATURE_DEF].Pack(signature_defs)
        return response

    async def get_model_status(self, request: Any) -> Any:
        """GetModelStatusRequest → GetModelStatusResponse."""
        _check_has_spec(request)
        response = GetModelStatusResponse()
        for version in self.catalog.versions(request.model_spec):
            status = response.model_version_status.add(version=version.number, state=int(version.state))
            status.status.error_code = code_number(version.error)
            status.status.error_message = version.error.message if version.error else ""
        return response

    async def reload_config(self, request: Any) -> Any:
        """ReloadConfigRequest → ReloadConfigResponse, when the models of the new list are AVAILABLE."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        await self.catalog.reload(model_configs(request.config, self.catalog.configs))
        return ReloadConfigResponse(status={})

    def find(self, request: Any) -> Version:
        """The AVAILABLE version that a request names. Raises ServingError."""
        _check_has_spec(request)
        return self.catalog.find(request.model_spec)

    async def _infer(self, request: Any, method: str, response: Any) -> Any:
        version = self.find(request)
        with version.lease() as servable:
            name = request.model_spec.signature_name
            task = inference.task(name, method, servable.signatures, checks_method_name=self._checks_method_name)
            api = "Classify" if method == CLASSIFY else "Regress"
            (result,) = await self._run_tasks(version, [task], request, request.model_spec.name, api)
        _fill(response.model_spec, request.model_spec, version)
        response.result.CopyFrom(result)
        return response

    async def _run_tasks(
        self, version: Version, tasks: Sequence[Task], request: Any, model_name: str, api: str
    ) -> list[Any]:
        call = inference.call(tasks, request)
        with self._metrics.runtime(model_name, api):
            outputs = await self._batcher.run(version, call)
        self._metrics.examples(model_name, len(call.inputs[INPUTS]))
        return [inference.result(task, call, outputs) for task in tasks]


def code_number(error: ServingError | None) -> int:
    """The number of an error's code, the same in gRPC, TensorFlow and `StatusProto`; 0 is OK."""
    code = grpc.StatusCode.OK if error is None else error.code
    number: int = code.value[0]
    return number


def _check_has_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _fill(spec: Any, asked: Any, version: Version) -> None:
    """The model_spec of an answer: what was meant by the one of the request."""
    spec.name = asked.name
    spec.signature_name = asked.signature_name or DEFAULT_SIGNATURE
    spec.version.value = version.number
