"""What each method answers, for any wire: messages in, messages out, ServingError for the rest."""

from __future__ import annotations

from typing import Any, Final

import grpc

from longtail.tfserving import message_class
from serving.model_server import signatures, tensors
from serving.model_server.batching import MicroBatcher
from serving.model_server.catalog import Catalog
from serving.model_server.errors import ServingError, invalid_argument
from serving.model_server.lifecycle import Version

PredictResponse = message_class("tensorflow.serving.PredictResponse")
GetModelMetadataResponse = message_class("tensorflow.serving.GetModelMetadataResponse")
GetModelStatusResponse = message_class("tensorflow.serving.GetModelStatusResponse")
SignatureDefMap = message_class("tensorflow.serving.SignatureDefMap")

SIGNATURE_DEF: Final = "signature_def"


class ModelApi:
    """PredictionService and ModelService."""

    def __init__(self, catalog: Catalog, batcher: MicroBatcher) -> None:
        self.catalog = catalog
        self._batcher = batcher

    async def predict(self, request: Any) -> Any:
        """PredictRequest → PredictResponse."""
        version = self.catalog.find(request)
        with version.lease() as servable:
            call = signatures.check(request, servable.signatures)
            outputs = await self._batcher.run(version, call)
        response = PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.signature_name = call.signature.name
        response.model_spec.version.value = version.number
        for alias in call.outputs:
            response.outputs[alias].CopyFrom(tensors.encode(outputs[alias]))
        return response

    async def get_model_metadata(self, request: Any) -> Any:
        """GetModelMetadataRequest → GetModelMetadataResponse."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != SIGNATURE_DEF:
                raise invalid_argument(f"Metadata field {name} is not supported")
        version = self.catalog.find(request)
        response = GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version.number
        response.metadata[SIGNATURE_DEF].Pack(signature_def_map(version))
        return response

    async def get_model_status(self, request: Any) -> Any:
        """GetModelStatusRequest → GetModelStatusResponse."""
        response = GetModelStatusResponse()
        for version in self.catalog.versions(request):
            status = response.model_version_status.add(version=version.number, state=int(version.state))
            status.status.error_code = code_number(version.error)
            status.status.error_message = version.error.message if version.error else ""
        return response


def signature_def_map(version: Version) -> Any:
    """The SignatureDefMap of an AVAILABLE version."""
    with version.lease() as servable:
        return SignatureDefMap(signature_def=servable.signature_defs)


def code_number(error: ServingError | None) -> int:
    """The number of an error's code, the same in gRPC, TensorFlow and `StatusProto`; 0 is OK."""
    code = grpc.StatusCode.OK if error is None else error.code
    number: int = code.value[0]
    return number
