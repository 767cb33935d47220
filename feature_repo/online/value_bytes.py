"""Arrow columns → the bytes of Feast's `Value` messages, a column at a time: no Python object per cell."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.contract import Dtype

# Fields of feast.types.Value; a test compares them with Feast's, whose import takes seconds.
VALUE_FIELDS: Final = {
    Dtype.STRING: 2,
    Dtype.INT64: 4,
    Dtype.FLOAT32: 6,
    Dtype.BOOL: 7,
    Dtype.STRINGS: 12,
    Dtype.INT64S: 14,
    Dtype.FLOAT32S: 16,
}
ARROW_TYPES: Final[dict[Dtype, Any]] = {
    Dtype.STRING: pa.string(),
    Dtype.INT64: pa.int64(),
    Dtype.FLOAT32: pa.float32(),
    Dtype.BOOL: pa.bool_(),
    Dtype.STRINGS: pa.list_(pa.string()),
    Dtype.INT64S: pa.list_(pa.int64()),
    Dtype.FLOAT32S: pa.list_(pa.float32()),
}

_VARINT, _LENGTH, _FIXED32 = 0, 2, 5  # protobuf wire types
_LIST_ELEMENTS: Final = bytes([1 << 3 | _LENGTH])  # field 1 of StringList, Int64List and FloatList; numbers are packed


def encode_column(column: Any, dtype: Dtype) -> Any:
    """One serialized `Value` per cell, as a BinaryArray; a null is the empty message, which Feast reads as None."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    cells = _ENCODERS[dtype](column.cast(ARROW_TYPES[dtype]), VALUE_FIELDS[dtype])
    return cells if column.null_count == 0 else pc.if_else(column.is_valid(), cells, pa.scalar(b"", pa.binary()))


def encode_times(unix_s: npt.NDArray[np.int64]) -> Any:
    """One serialized google.protobuf.Timestamp per whole second, as a BinaryArray."""
    return joined(pa.scalar(b"\x08"), varints(unix_s))


def joined(*pieces: Any) -> Any:
    """The concatenation of binary arrays and scalars, row by row."""
    return pc.binary_join_element_wise(*pieces, pa.scalar(b"", pa.binary()))


def varints(numbers: npt.NDArray[np.int64]) -> Any:
    """Protobuf's variable-length integers, as a BinaryArray."""
    left = numbers.astype(np.int64, copy=False).view(np.uint64)
    lengths = np.ones(len(left), np.int64)
    width = 1
    while width < 10 and (longer := left >= np.uint64(1 << 7 * width)).any():
        lengths += longer
        width += 1
    groups = np.empty((len(left), width), np.uint8)  # [numbers, bytes]
    for place in range(width):
        groups[:, place] = (left >> np.uint64(7 * place)) & np.uint64(0x7F)
    places = np.arange(width)
    groups |= (places < (lengths - 1)[:, None]) * np.uint8(0x80)
    return _binary(groups[places < lengths[:, None]], _offsets(lengths))


def _strings(column: Any, number: int) -> Any:
    return _delimited(_tag(number, _LENGTH), column.cast(pa.binary()))


def _int64s(column: Any, number: int) -> Any:
    return joined(_tag(number, _VARINT), varints(_numbers(column)))


def _bools(column: Any, number: int) -> Any:
    return joined(_tag(number, _VARINT), varints(_numbers(column.cast(pa.int8()))))


def _float32s(column: Any, number: int) -> Any:
    return joined(_tag(number, _FIXED32), _fixed32(_numbers(column)))


def _string_lists(column: Any, number: int) -> Any:
    elements = _delimited(pa.scalar(_LIST_ELEMENTS), column.flatten().cast(pa.binary()))
    return _delimited(_tag(number, _LENGTH), _regrouped(elements, column))


def _int64_lists(column: Any, number: int) -> Any:
    return _packed(varints(_numbers(column.flatten())), column, number)


def _float32_lists(column: Any, number: int) -> Any:
    return _packed(_fixed32(_numbers(column.flatten())), column, number)


_ENCODERS: Final = {
    Dtype.STRING: _strings,
    Dtype.INT64: _int64s,
    Dtype.FLOAT32: _float32s,
    Dtype.BOOL: _bools,
    Dtype.STRINGS: _string_lists,
    Dtype.INT64S: _int64_lists,
    Dtype.FLOAT32S: _float32_lists,
}


def _packed(elements: Any, column: Any, number: int) -> Any:
    """An empty list is an empty message: protobuf leaves a packed field without elements out."""
    bodies = _regrouped(elements, column)
    lists = _delimited(pa.scalar(_LIST_ELEMENTS), bodies)
    is_empty = pc.equal(pc.binary_length(bodies), 0)
    return _delimited(_tag(number, _LENGTH), pc.if_else(is_empty, pa.scalar(b"", pa.binary()), lists))


def _delimited(tag: Any, bodies: Any) -> Any:
    lengths = pc.fill_null(pc.binary_length(bodies), 0)
    return joined(tag, varints(_numbers(lengths)), pc.fill_null(bodies, b""))


def _regrouped(elements: Any, column: Any) -> Any:
    """The bytes of each list's elements in a row: they lie so already, only the offsets are others."""
    counts = _numbers(pc.fill_null(pc.list_value_length(column), 0))
    _, offsets, data = elements.buffers()
    starts = np.frombuffer(offsets, np.int32, len(elements) + 1, elements.offset * 4)
    return _binary(data, starts[_offsets(counts)])


def _fixed32(numbers: npt.NDArray[np.float32]) -> Any:
    return _binary(numbers.astype("<f4"), np.arange(len(numbers) + 1, dtype=np.int32) * 4)


def _numbers(column: Any) -> Any:
    return np.asarray(pc.fill_null(column, 0))


def _offsets(lengths: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _binary(data: Any, offsets: npt.NDArray[np.int32]) -> Any:
    buffer = data if isinstance(data, pa.Buffer) else pa.py_buffer(np.ascontiguousarray(data))
    return pa.BinaryArray.from_buffers(pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), buffer])


def _tag(number: int, wire_type: int) -> Any:
    tag, value = bytearray(), number << 3 | wire_type
    while value > 0x7F:
        tag.append(value & 0x7F | 0x80)
        value >>= 7
    tag.append(value)
    return pa.scalar(bytes(tag))
