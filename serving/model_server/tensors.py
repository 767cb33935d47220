"""TensorProto ↔ numpy, as TensorFlow reads and writes it, without TensorFlow.

Read: `tensor_content`, or the value field of the type, where too few values repeat the last one, none means zeros,
and surplus is ignored. Written: the value field, as the real server answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from longtail.tfserving import message_class

Array = npt.NDArray[Any]

TensorProto = message_class("tensorflow.TensorProto")

MAX_FILLED: Final = 1 << 24  # elements a message may ask for beyond what it sends: a short message must not eat memory


class MalformedTensorError(ValueError):
    """A TensorProto that describes no tensor."""


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """One element type: its number in `tensorflow.DataType`, TensorFlow's name, numpy's, and the value field."""

    number: int
    name: str
    numpy: np.dtype[Any]
    field: str


def _type(number: int, name: str, numpy: npt.DTypeLike, field: str) -> TensorType:
    return TensorType(number=number, name=name, numpy=np.dtype(numpy), field=field)


STRING: Final = 7
TYPES: Final = {
    kind.number: kind
    for kind in (
        _type(1, "float", np.float32, "float_val"),
        _type(2, "double", np.float64, "double_val"),
        _type(3, "int32", np.int32, "int_val"),
        _type(4, "uint8", np.uint8, "int_val"),
        _type(5, "int16", np.int16, "int_val"),
        _type(6, "int8", np.int8, "int_val"),
        _type(STRING, "string", np.object_, "string_val"),
        _type(8, "complex64", np.complex64, "scomplex_val"),
        _type(9, "int64", np.int64, "int64_val"),
        _type(10, "bool", np.bool_, "bool_val"),
        _type(14, "bfloat16", ml_dtypes.bfloat16, "half_val"),
        _type(17, "uint16", np.uint16, "int_val"),
        _type(18, "complex128", np.complex128, "dcomplex_val"),
        _type(19, "half", np.float16, "half_val"),
        _type(22, "uint32", np.uint32, "uint32_val"),
        _type(23, "uint64", np.uint64, "uint64_val"),
    )
}
_BY_NUMPY: Final = {kind.numpy: kind for kind in TYPES.values()}
_WIRE: Final = {
    "float_val": np.float32,
    "double_val": np.float64,
    "int_val": np.int32,
    "int64_val": np.int64,
    "bool_val": np.bool_,
    "half_val": np.int32,
    "scomplex_val": np.float32,
    "dcomplex_val": np.float64,
    "uint32_val": np.uint32,
    "uint64_val": np.uint64,
}
# Value fields whose numbers are not the elements themselves: bits of 16-bit floats, parts of complex numbers.
_PARTS: Final = {"half_val": np.uint16, "scomplex_val": np.float32, "dcomplex_val": np.float64}


def type_name(number: int) -> str:
    """TensorFlow's name of a type, "int64" for 9; "unknown" where we have none."""
    return TYPES[number].name if number in TYPES else "unknown"


def type_of(array: Array) -> TensorType:
    """The type of an array. Raises MalformedTensorError."""
    kind = _BY_NUMPY.get(array.dtype)
    if kind is None:
        raise MalformedTensorError(f"numpy type {array.dtype} has no TensorFlow type")
    return kind


def decode(proto: Any) -> Array:
    """The tensor in a TensorProto; strings become objects of type bytes. Raises MalformedTensorError."""
    kind = TYPES.get(proto.dtype)
    if kind is None:
        raise MalformedTensorError(f"type {proto.dtype} is not supported")
    shape = _shape(proto)
    size = math.prod(shape)
    flat = _from_content(proto, kind, size) if proto.tensor_content else _from_values(proto, kind, size)
    return flat.reshape(shape)


def encode(array: Array) -> Any:
    """A TensorProto of the array, its elements in the value field of the type."""
    kind = type_of(array)
    proto = TensorProto(dtype=kind.number)
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    flat = np.ascontiguousarray(array).reshape(-1)
    parts = flat.view(_PARTS[kind.field]) if kind.field in _PARTS else flat
    getattr(proto, kind.field).extend(parts.tolist())
    return proto


def strings(values: list[bytes]) -> Array:
    """A string tensor of one dimension."""
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def _shape(proto: Any) -> tuple[int, ...]:
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise MalformedTensorError("the shape is not known")
    return shape


def _from_content(proto: Any, kind: TensorType, size: int) -> Array:
    if kind.number == STRING:
        return strings(_split_strings(proto.tensor_content, size))
    if len(proto.tensor_content) != size * kind.numpy.itemsize:
        raise MalformedTensorError(f"{len(proto.tensor_content)} bytes are not {size} elements of {kind.name}")
    return np.frombuffer(proto.tensor_content, kind.numpy)


def _from_values(proto: Any, kind: TensorType, size: int) -> Array:
    values = getattr(proto, kind.field)
    sent = len(values) // _width(kind)
    if size > max(sent, MAX_FILLED):
        raise MalformedTensorError(f"a shape of {size} elements with {sent} values")
    elements = strings(list(values)) if kind.number == STRING else _elements(values, kind)
    if sent >= size:
        return elements[:size]
    filler = elements[-1:] if sent else strings([b""]) if kind.number == STRING else np.zeros(1, kind.numpy)
    return np.concatenate([elements, np.repeat(filler, size - sent)])


def _width(kind: TensorType) -> int:
    return 2 if kind.field in ("scomplex_val", "dcomplex_val") else 1


def _elements(values: Any, kind: TensorType) -> Array:
    wire: Array = np.array(values, _WIRE[kind.field])
    if kind.field not in _PARTS:
        return wire.astype(kind.numpy, copy=False)
    whole = wire[: len(wire) // _width(kind) * _width(kind)]
    return whole.astype(_PARTS[kind.field], copy=False).view(kind.numpy)


def _split_strings(content: bytes, count: int) -> list[bytes]:
    """Strings in `tensor_content`: all lengths as varints, then all bytes."""
    if count > len(content):
        raise MalformedTensorError(f"{len(content)} bytes are not {count} strings")
    lengths, at = [], 0
    for _ in range(count):
        length, at = _varint(content, at)
        lengths.append(length)
    if at + sum(lengths) != len(content):
        raise MalformedTensorError("the lengths of the strings do not add up")
    strings = []
    for length in lengths:
        strings.append(content[at : at + length])
        at += length
    return strings


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(content):
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise MalformedTensorError("a string's length is cut off")
