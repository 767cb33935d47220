"""numpy ↔ TensorProto without TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from longtail.tfserving import message_class
from serving.gateway.domain import Float32s

TensorProto: Final = message_class("tensorflow.TensorProto")
_DTYPES: Final = TensorProto.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_name
DT_FLOAT: Final[int] = _DTYPES["DT_FLOAT"].number
DT_INT64: Final[int] = _DTYPES["DT_INT64"].number
DT_STRING: Final[int] = _DTYPES["DT_STRING"].number


class BadTensorError(ValueError):
    """Not the type, the shape or the values that were asked for."""


def from_floats(array: Float32s) -> Any:
    return _tensor(DT_FLOAT, array.shape, tensor_content=np.ascontiguousarray(array, "<f4").tobytes())


def from_ints(array: npt.NDArray[np.int64]) -> Any:
    return _tensor(DT_INT64, array.shape, tensor_content=np.ascontiguousarray(array, "<i8").tobytes())


def from_strings(row: Sequence[str]) -> Any:
    """One row: shape [1, len(row)]."""
    return _tensor(DT_STRING, (1, len(row)), string_val=[text.encode() for text in row])


def to_floats(tensor: Any, shape: tuple[int, ...]) -> Float32s:
    """Raises BadTensorError unless it is finite float32 of exactly this shape."""
    _expect(tensor, DT_FLOAT, shape)
    content = tensor.tensor_content
    values = np.frombuffer(content, "<f4") if content else np.asarray(tensor.float_val, np.float32)
    if values.size != math.prod(shape):
        raise BadTensorError(f"shape {list(shape)} holds {values.size} values")
    if not np.isfinite(values).all():
        raise BadTensorError(f"{int((~np.isfinite(values)).sum())} of {values.size} values are NaN or infinite")
    return values.reshape(shape).astype(np.float32, copy=False)


def to_strings(tensor: Any) -> tuple[str, ...]:
    """Raises BadTensorError unless it is UTF-8 strings of shape [1, any]."""
    _expect(tensor, DT_STRING, (1, len(tensor.string_val)))
    try:
        return tuple(value.decode() for value in tensor.string_val)
    except UnicodeDecodeError as error:
        raise BadTensorError(f"an item id is not UTF-8: {error}") from error


def _tensor(dtype: int, shape: tuple[int, ...], **content: Any) -> Any:
    return TensorProto(dtype=dtype, tensor_shape={"dim": [{"size": size} for size in shape]}, **content)


def _expect(tensor: Any, dtype: int, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype:
        raise BadTensorError(f"dtype {tensor.dtype} where {dtype} was expected")
    got = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if got != shape:
        raise BadTensorError(f"shape {list(got)} where {list(shape)} was expected")
