"""The baseline: a grpc.aio server that calls the signature for each request.

`python -m loadtest.model_server.plain ADDRESS DIRECTORY`: `tf.saved_model.load`, `make_ndarray`, the signature,
`make_tensor_proto`. One thread in and between operations, which is its fastest.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


class Plain(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    def __init__(self, directory: str) -> None:
        self._signatures = tf.saved_model.load(directory).signatures

    async def Predict(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:  # noqa: N802
        signature = self._signatures[request.model_spec.signature_name or "serving_default"]
        inputs = {alias: tf.constant(tf.make_ndarray(proto)) for alias, proto in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        for alias, output in signature(**inputs).items():
            response.outputs[alias].CopyFrom(tf.make_tensor_proto(output.numpy()))
        return response


async def serve(address: str, directory: str) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    server = grpc.aio.server()
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Plain(directory), server)
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
