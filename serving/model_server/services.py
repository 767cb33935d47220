"""gRPC: TensorFlow Serving's two services, health and reflection, on one grpc.aio server."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from longtail.tfserving import message_class, service
from serving.model_server import deadlines
from serving.model_server.api import ModelApi
from serving.model_server.errors import ServingError
from serving.model_server.metrics import Metrics

log = logging.getLogger(__name__)

PREDICTION_SERVICE: Final = "tensorflow.serving.PredictionService"
MODEL_SERVICE: Final = "tensorflow.serving.ModelService"
MAX_DETAILS: Final = 1024  # characters; longer texts do not fit a trailer everywhere

Method = Callable[[Any], Awaitable[Any]]
_Context = grpc.aio.ServicerContext[Any, Any]


def add_services(
    server: grpc.aio.Server, api: ModelApi, metrics: Metrics, health_servicer: health.aio.HealthServicer | None
) -> None:
    """Adds everything to the server; without a health servicer, health answers UNIMPLEMENTED."""
    methods: dict[str, dict[str, Method]] = {
        PREDICTION_SERVICE: {
            "Predict": _counted(metrics, "Predict", api.predict),
            "Classify": _counted(metrics, "Classify", api.classify),
            "Regress": _counted(metrics, "Regress", api.regress),
            "MultiInference": _counted(metrics, "MultiInference", api.multi_inference),
            "GetModelMetadata": api.get_model_metadata,
        },
        MODEL_SERVICE: {"GetModelStatus": api.get_model_status, "HandleReloadConfigRequest": api.reload_config},
    }
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(
                name, {method: _handler(name, method, answer) for method, answer in answers.items()}
            )
            for name, answers in methods.items()
        )
    )
    names = [PREDICTION_SERVICE, MODEL_SERVICE, reflection.SERVICE_NAME]
    if health_servicer is not None:
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
        names.append(health.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool=_reflected())


async def set_health(servicer: health.aio.HealthServicer, is_serving: bool) -> None:
    """Says for each service whether it serves."""
    status = health_pb2.HealthCheckResponse.SERVING if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING
    for name in (health.OVERALL_HEALTH, PREDICTION_SERVICE, MODEL_SERVICE):
        await servicer.set(name, status)


def _counted(metrics: Metrics, api_name: str, answer: Method) -> Method:
    async def counted(request: Any) -> Any:
        asked = request.tasks[0] if api_name == "MultiInference" and request.tasks else request
        name = asked.model_spec.name if hasattr(asked, "model_spec") else ""
        with metrics.request(name, api_name, "GRPC"):
            return await answer(request)

    return counted


def _handler(service_name: str, method: str, answer: Method) -> grpc.RpcMethodHandler[Any, Any]:
    descriptor = service(service_name).methods_by_name[method]

    async def handle(request: Any, context: _Context) -> Any:
        deadlines.set_time_left(context.time_remaining())
        try:
            return await answer(request)
        except ServingError as error:
            await context.abort(error.code, _shortened(error.message))
        except Exception as error:
            log.exception("unexpected failure in %s.%s", service_name, method)
            await context.abort(grpc.StatusCode.INTERNAL, _shortened(f"unexpected {type(error).__name__}: {error}"))

    return grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=message_class(descriptor.input_type.full_name).FromString,
        response_serializer=message_class(descriptor.output_type.full_name).SerializeToString,
    )


def _shortened(message: str) -> str:
    return message if len(message) <= MAX_DETAILS else f"{message[:MAX_DETAILS]}...TRUNCATED"


def _reflected() -> DescriptorPool:
    """The pool of TensorFlow Serving's descriptors, with health added."""
    pool: DescriptorPool = service(PREDICTION_SERVICE).file.pool
    pool.AddSerializedFile(health_pb2.DESCRIPTOR.serialized_pb)
    return pool
