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

_BLANK: Final = [b""]


class BadTensorError(ValueError):
    """Not the type, the shape or the values that were asked for."""


def from_floats(array: Float32s) -> Any:
    return _tensor(DT_FLOAT, array.shape, tensor_content=np.ascontiguousarray(array, "<f4").tobytes())


def from_ints(array: npt.NDArray[np.int64]) -> Any:
    return _tensor(DT_INT64, array.shape, tensor_content=np.ascontiguousarray(array, "<i8").tobytes())


def from_strings(rows: Sequence[Sequence[str]], length: int) -> Any:
    """Shape [len(rows), length]: rows are cut or padded with "" to it."""
    values = []
    for row in rows:
        known = row[:length]
        values += [text.encode() for text in known]
        values += _BLANK * (length - len(known))
    return _tensor(DT_STRING, (len(rows), length), string_val=values)


def to_floats(tensor: Any, shape: tuple[int, ...]) -> Float32s:
    """Raises BadTensorError unless it is float32 of exactly this shape."""
    _expect(tensor, DT_FLOAT, shape)
    content = tensor.tensor_content
    values = np.frombuffer(content, "<f4") if content else np.asarray(tensor.float_val, np.float32)
    if values.size != math.prod(shape):
        raise BadTensorError(f"shape {list(shape)} holds {values.size} values")
    return values.reshape(shape).astype(np.float32, copy=False)


def to_strings(tensor: Any, rows: int) -> list[tuple[str, ...]]:
    """Raises BadTensorError unless it is UTF-8 strings of shape [rows, any]."""
    values = tensor.string_val
    length = len(values) // rows
    _expect(tensor, DT_STRING, (rows, length))
    try:
        texts = tuple(value.decode() for value in values)
    except UnicodeDecodeError as error:
        raise BadTensorError(f"an item id is not UTF-8: {error}") from error
    return [texts[start : start + length] for start in range(0, rows * length, length or 1)] or [()] * rows


def _tensor(dtype: int, shape: tuple[int, ...], **content: Any) -> Any:
    return TensorProto(dtype=dtype, tensor_shape={"dim": [{"size": size} for size in shape]}, **content)


def _expect(tensor: Any, dtype: int, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype:
        raise BadTensorError(f"dtype {tensor.dtype} where {dtype} was expected")
    got = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if got != shape:
        raise BadTensorError(f"shape {list(got)} where {list(shape)} was expected")
