"""TensorFlow Serving's messages, without TensorFlow.

The published stubs (`tensorflow_serving.apis`) import all of TensorFlow: 3 s and over half a gigabyte. Here the
same wire descriptors are loaded into a descriptor pool of their own, so that a process may hold both.

>>> PredictRequest = message_class("tensorflow.serving.PredictRequest")
>>> PredictRequest(model_spec={"name": "longtail"}).model_spec.name
'longtail'
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import ServiceDescriptor


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    data = resources.files(__name__).joinpath("tfserving.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)
    return pool


@cache
def message_class(full_name: str) -> Any:
    """The class of a message, such as "tensorflow.TensorProto". Raises KeyError for an unknown name."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(full_name))


@cache
def service(full_name: str) -> ServiceDescriptor:
    """The descriptor of a service, such as "tensorflow.serving.PredictionService"."""
    return _pool().FindServiceByName(full_name)
