"""JSON of the REST API: read as the real server reads it, written digit for digit as it writes it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from serving.model_server import tensors
from serving.model_server.errors import invalid_argument
from serving.model_server.tensors import Array

BASE64: Final = "b64"
_BYTES_SUFFIX: Final = "_bytes"
_MAX_SHOWN: Final = 1000  # characters of a value in an error
_DIGITS: Final = {np.dtype(np.float32): 9, np.dtype(np.float64): 17}  # those that tell all numbers apart
_WRITTEN: Final = {
    np.dtype(kind) for kind in (np.int32, np.int16, np.int8, np.uint8, np.int64, np.bool_, np.uint32, np.uint64)
}
# Python's words for what is wrong with a document, and RapidJSON's.
_PARSE_ERRORS: Final = {
    "Expecting value": "Invalid value.",
    "Extra data": "The document root must not be followed by other values.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Expecting ',' delimiter": "Missing a comma or } after an object member.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
}
_TYPES: Final = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number", type(None): "Null"}


def parse(body: bytes) -> dict[str, Any]:
    """The object in a request's body. Raises ServingError."""
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except json.JSONDecodeError as error:
        said = _PARSE_ERRORS.get(error.msg, f"{error.msg}.")
        raise invalid_argument(f"JSON Parse error: {said} at offset: {error.pos}") from error
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"JSON Parse error: {error}") from error
    _check_text(document, body)
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {shown(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """The signature that a request names, or "". Raises ServingError."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def shown(value: Any) -> str:
    """A value as errors show it."""
    try:
        text = json.dumps(value, indent=4, ensure_ascii=False)
    except RecursionError:
        text = "(nested too deeply to show)"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def type_name(value: Any) -> str:
    """RapidJSON's name of a value's type."""
    return str(value) if isinstance(value, bool) else _TYPES[type(value)]


def is_base64(value: Any) -> bool:
    """True for `{"b64": "…"}` and nothing beside it."""
    return isinstance(value, dict) and value.keys() == {BASE64} and isinstance(value[BASE64], str)


def from_base64(value: Any) -> bytes:
    """The bytes of a `{"b64": "…"}`. Raises ServingError."""
    if not is_base64(value):
        raise invalid_argument(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    text = value[BASE64].rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_argument("Unable to base64 decode") from error


def decimal(value: float, kind: np.dtype[Any]) -> str:
    """Six digits where they are enough, else as many as tell all numbers apart; always a decimal.

    >>> decimal(0.2, np.dtype(np.float32)), decimal(3.0, np.dtype(np.float32)), decimal(1 / 3, np.dtype(np.float64))
    ('0.2', '3.0', '0.33333333333333331')
    """
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    text = f"{value:.6g}"
    if kind.type(text) != value:
        text = f"{value:.{_DIGITS[kind]}g}"
    return text if "." in text or "e" in text else f"{text}.0"


def columns(outputs: Mapping[str, Array]) -> str:
    """`{"outputs": …}`; one output stands without its name. Raises ServingError."""
    if len(outputs) == 1:
        ((alias, array),) = outputs.items()
        return f'{{\n    "outputs": {_nested(array.shape, _values(alias, array))}\n}}'
    members = (f"{_string(alias)}: {_nested(array.shape, _values(alias, array))}" for alias, array in outputs.items())
    return f'{{\n    "outputs": {_lines("{}", members, 2)}\n}}'


def rows(outputs: Mapping[str, Array]) -> str:
    """`{"predictions": […]}`, one element a row; one output stands without its name. Raises ServingError."""
    count = _batch_size(outputs)
    parts = {alias: _rows(alias, array, count) for alias, array in outputs.items()}
    if len(parts) == 1:
        elements: Iterable[str] = next(iter(parts.values()))
    else:
        elements = (
            _lines("{}", (f"{_string(alias)}: {part[row]}" for alias, part in parts.items()), 3) for row in range(count)
        )
    return f'{{\n    "predictions": {_lines("[]", elements, 2)}\n}}'


def results(elements: Iterable[str]) -> str:
    """`{"results": […]}` of a classification or regression."""
    return f'{{\n    "results": {_lines("[]", elements, 2)}\n}}'


def classes(labels: Iterable[tuple[str, float]]) -> str:
    """One example's classes."""
    kind = np.dtype(np.float32)
    return f"[{', '.join(f'[{_string(label)}, {decimal(score, kind)}]' for label, score in labels)}]"


def _check_text(document: Any, body: bytes) -> None:
    """Half of a surrogate pair is no text: it could be neither sent to the model nor shown in an error."""
    if b"\\u" not in body:
        return
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise invalid_argument("JSON Parse error: The surrogate pair in string is invalid.") from error
    except RecursionError as error:
        raise invalid_argument(f"JSON Parse error: {error}") from error


def _batch_size(outputs: Mapping[str, Array]) -> int:
    size = 0
    for alias, array in outputs.items():
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {alias} has no shape information ")
        if not len(array):
            raise invalid_argument(f"Tensor name: {alias} has invalid batch size: 0")
        if size and len(array) != size:
            raise invalid_argument(f"Tensor name: {alias} has inconsistent batch size: {len(array)} expecting: {size}")
        size = len(array)
    return size


def _rows(alias: str, array: Array, count: int) -> list[str]:
    values = _values(alias, array)
    width = len(values) // count
    return [_nested(array.shape[1:], values[row * width : (row + 1) * width]) for row in range(count)]


def _values(alias: str, array: Array) -> list[str]:
    flat = array.reshape(-1)
    if array.dtype in _DIGITS:
        return [decimal(value, array.dtype) for value in flat]
    if array.dtype == np.object_:
        write = _bytes if alias.endswith(_BYTES_SUFFIX) else _string
        return [write(item) for item in flat]
    if array.dtype in _WRITTEN:
        return [str(value).lower() for value in flat.tolist()]
    raise invalid_argument(f"Failed to write JSON value for tensor type: {tensors.type_of(array).name}")


def _nested(shape: Sequence[int], values: Sequence[str]) -> str:
    if not shape:
        return values[0]
    if len(shape) == 1 or not values:
        return f"[{', '.join(values)}]"
    width = len(values) // shape[0]
    return f"[{', '.join(_nested(shape[1:], values[at : at + width]) for at in range(0, len(values), width))}]"


def _lines(brackets: str, parts: Iterable[str], depth: int) -> str:
    pad = "\n" + "    " * depth
    return f"{brackets[0]}{pad}{f',{pad}'.join(parts)}{pad[:-4]}{brackets[1]}"


def _string(text: str | bytes) -> str:
    return json.dumps(text if isinstance(text, str) else text.decode(errors="replace"), ensure_ascii=False)


def _bytes(item: bytes) -> str:
    return f'{{"{BASE64}": "{base64.b64encode(item).decode()}"}}'
