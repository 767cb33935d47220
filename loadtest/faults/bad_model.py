"""A model server between the gateway and the real one, whose answers can be made wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
import numpy as np

from longtail.tfserving import message_class

PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
PredictResponse: Final = message_class("tensorflow.serving.PredictResponse")

Spoil = Callable[[Any], None]


def nan_scores(response: Any) -> None:
    _fill(response, np.nan)


def scores_over_one(response: Any) -> None:
    _fill(response, 7.5)


def wrong_shape(response: Any) -> None:
    """A column too few, values and shape alike."""
    for tensor in response.outputs.values():
        if tensor.float_val:
            rows, columns = (dim.size for dim in tensor.tensor_shape.dim)
            tensor.tensor_shape.dim[1].size = columns - 1
            del tensor.float_val[rows * (columns - 1) :]


def _fill(response: Any, value: float) -> None:
    for tensor in response.outputs.values():
        if tensor.float_val:
            count = len(tensor.float_val)
            del tensor.float_val[:]
            tensor.float_val.extend([value] * count)


class Between(grpc.GenericRpcHandler):
    """Passes bytes through; `spoil` changes Predict's answers, `delay_s` holds every call."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=[("grpc.max_reconnect_backoff_ms", 500)])
        self.spoil: Spoil | None = None
        self.delay_s = 0.0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method

        async def pass_on(data: bytes, context: Any) -> bytes:
            await asyncio.sleep(self.delay_s)
            try:
                ask: Any = self._channel.unary_unary(method)
                answer: bytes = await ask(data, timeout=context.time_remaining())
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")
            if self.spoil is None or method != PREDICT:
                return answer
            response = PredictResponse.FromString(answer)
            self.spoil(response)
            return bytes(response.SerializeToString())

        return grpc.unary_unary_rpc_method_handler(pass_on)


async def serve(address: str, between: Between) -> grpc.aio.Server:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((between,))
    server.add_insecure_port(address)
    await server.start()
    return server
