"""JSON ↔ tensors for the REST predict call: rows (`instances` → `predictions`) or columns (`inputs` → `outputs`)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from serving.model_server import signatures, tensors
from serving.model_server.errors import invalid_argument
from serving.model_server.signatures import Signature, Slot
from serving.model_server.tensors import Array

_BASE64: Final = "b64"
_BYTES_SUFFIX: Final = "_bytes"
_PYTHON_KINDS: Final = {"f": (int, float), "i": (int,), "u": (int,), "b": (bool,)}


def fill_request(request: Any, body: bytes, known: Mapping[str, Signature]) -> bool:
    """Puts the JSON body's tensors into a PredictRequest; True when they came as rows. Raises ServingError."""
    document = _document(body)
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument("'signature_name' key must be a string value.")
    request.model_spec.signature_name = name
    signature = signatures.find(name, known)
    if ("instances" in document) == ("inputs" in document):
        raise invalid_argument("Request must have exactly one of the keys 'instances' (rows) and 'inputs' (columns).")
    as_rows = "instances" in document
    columns = _columns(document["instances"], signature) if as_rows else _named(document["inputs"], signature)
    slots = {slot.alias: slot for slot in signature.inputs}
    for alias, value in columns.items():
        if alias not in slots:
            raise invalid_argument(f"JSON object: does not have named input: {alias}")
        request.inputs[alias].CopyFrom(tensors.encode(_array(value, slots[alias])))
    return as_rows


def answer(outputs: Mapping[str, Any], *, as_rows: bool) -> dict[str, Any]:
    """The JSON answer; one output stands without its name. Raises ServingError."""
    columns = {alias: _values(tensors.decode(outputs[alias]), alias) for alias in sorted(outputs)}
    if not as_rows:
        return {"outputs": next(iter(columns.values())) if len(columns) == 1 else columns}
    if any(not isinstance(column, list) for column in columns.values()):
        raise invalid_argument("Output tensors must have a batch dimension for row format; ask with 'inputs'.")
    if len({len(column) for column in columns.values()}) > 1:
        raise invalid_argument("Output tensors differ in batch size; ask with 'inputs' instead of 'instances'.")
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid_argument("JSON Value: the body is not an object with the key 'instances' or 'inputs'.")
    return document


def _columns(rows: Any, signature: Signature) -> dict[str, Any]:
    """Rows by input: each row names its inputs, or is the value of the only one."""
    if not isinstance(rows, list) or not rows:
        raise invalid_argument("'instances' must be a list of at least one row.")
    named = [_named(row, signature) for row in rows]
    if any(row.keys() != named[0].keys() for row in named):
        raise invalid_argument("All rows of 'instances' must name the same inputs.")
    return {alias: [row[alias] for row in named] for alias in named[0]}


def _named(value: Any, signature: Signature) -> dict[str, Any]:
    if isinstance(value, dict) and not _is_base64(value):
        return value
    if len(signature.inputs) != 1:
        names = ", ".join(slot.alias for slot in signature.inputs)
        raise invalid_argument(f"Values must be named where a signature has several inputs: {names}.")
    return {signature.inputs[0].alias: value}


def _array(value: Any, slot: Slot) -> Array:
    kind = tensors.TYPES.get(slot.dtype)
    if kind is None:
        raise invalid_argument(f"Conversion of JSON to type {slot.dtype} is not supported (input {slot.alias}).")
    shape = _shape(value)
    leaves = list(_leaves(value, shape, slot))
    flat = np.empty(len(leaves), np.object_)
    try:
        flat[:] = [_leaf(leaf, kind, slot) for leaf in leaves]
        return flat.astype(kind.numpy).reshape(shape)
    except (OverflowError, ValueError) as error:
        raise invalid_argument(f"JSON Value of input {slot.alias} does not fit {kind.name}: {error}") from error


def _shape(value: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def _leaves(value: Any, shape: tuple[int, ...], slot: Slot) -> Iterator[Any]:
    if not shape and not isinstance(value, list):
        yield value
    elif shape and isinstance(value, list) and len(value) == shape[0]:
        for part in value:
            yield from _leaves(part, shape[1:], slot)
    else:
        raise invalid_argument(f"JSON Value of input {slot.alias} is not a tensor: its lists differ in size or depth.")


def _leaf(value: Any, kind: tensors.TensorType, slot: Slot) -> Any:
    if kind.number == tensors.STRING:
        if isinstance(value, str):
            return value.encode()
        if _is_base64(value):
            return _unbase64(value[_BASE64], slot)
    elif type(value) in _PYTHON_KINDS.get(kind.numpy.kind, ()):
        return value
    raise invalid_argument(
        f"JSON Value: {json.dumps(value)[:100]} is not of expected type: {kind.name} (input {slot.alias})"
    )


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {_BASE64} and isinstance(value[_BASE64], str)


def _unbase64(text: str, slot: Slot) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise invalid_argument(f"Unable to base64 decode (input {slot.alias}): {error}") from error


def _values(array: Array, alias: str) -> Any:
    if array.dtype == np.object_:
        as_bytes = alias.endswith(_BYTES_SUFFIX)
        flat = [{_BASE64: base64.b64encode(item).decode()} if as_bytes else _text(item) for item in array.reshape(-1)]
        array = np.array([None, *flat], np.object_)[1:].reshape(array.shape)
    elif array.dtype == np.float32:
        array = np.array([float(str(item)) for item in array.reshape(-1)]).reshape(
            array.shape
        )  # 0.2, not 0.20000000298
    return array.tolist()


def _text(item: bytes) -> str:
    return item.decode(errors="replace")
