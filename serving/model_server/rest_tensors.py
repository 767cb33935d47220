"""JSON → tensors for the REST predict call: rows (`instances`) or columns (`inputs`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from serving.model_server import rest_json, tensors
from serving.model_server.errors import ServingError, invalid_argument
from serving.model_server.rest_json import shown
from serving.model_server.signatures import DEFAULT_SIGNATURE, Signature, Slot
from serving.model_server.tensors import STRING, Array, TensorType

INSTANCES: Final = "instances"
INPUTS: Final = "inputs"
_NUMPY_INTEGERS: Final = "iu"
_MAX_WHOLE: Final = {np.dtype(np.float32): (1 << 24) - 1, np.dtype(np.float64): (1 << 53) - 1}


def fill_request(request: Any, body: bytes, known: Mapping[str, Signature]) -> bool:
    """Puts the JSON body's tensors into a PredictRequest; True when they came as rows. Raises ServingError."""
    document = rest_json.parse(body)
    name = request.model_spec.signature_name = rest_json.signature_name(document)
    slots = _slots(name, known)
    if INSTANCES in document and INPUTS in document:
        raise _wrong(
            document, f"Not formatted correctly expecting only one of '{INPUTS}' or '{INSTANCES}' keys to exist "
        )
    if INSTANCES in document:
        columns = _from_rows(document, slots)
    elif INPUTS in document:
        columns = _from_columns(document[INPUTS], slots)
    else:
        raise invalid_argument(f"Missing '{INPUTS}' or '{INSTANCES}' key")
    for alias, column in columns.items():
        request.inputs[alias].CopyFrom(tensors.encode(column))
    return INSTANCES in document


def _slots(name: str, known: Mapping[str, Signature]) -> dict[str, Slot]:
    name = name or DEFAULT_SIGNATURE
    if name not in known:
        raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
    slots = {slot.alias: slot for slot in known[name].inputs}
    if not slots:
        raise invalid_argument(f"Failed to get input map for signature: {name}")
    return slots


def _from_columns(value: Any, slots: Mapping[str, Slot]) -> dict[str, Array]:
    if not isinstance(value, dict) or rest_json.is_base64(value):
        if len(slots) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        return {alias: _array(value, slot) for alias, slot in slots.items()}
    for alias in slots:
        if alias not in value:
            raise invalid_argument(f"Missing named input: {alias} in 'inputs' object.")
    return {alias: _array(value[alias], slot) for alias, slot in slots.items()}


def _from_rows(document: Mapping[str, Any], slots: Mapping[str, Slot]) -> dict[str, Array]:
    rows = document[INSTANCES]
    if not isinstance(rows, list):
        raise _wrong(document, f"Excepting '{INSTANCES}' to be an list/array")
    if not rows:
        raise _wrong(document, f"No values in '{INSTANCES}' array")
    if not isinstance(rows[0], dict) and len(slots) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    named = _is_named(rows[0])
    parts: dict[str, list[Array]] = {}
    for position, row in enumerate(rows):
        _check_form(row, position, named=named)
        items = row if named else {next(iter(slots)): row}
        for alias, value in items.items():
            parts.setdefault(alias, []).append(_item(value, alias, slots, parts, position, named=named))
        if items.keys() != slots.keys():
            raise invalid_argument(
                f"Failed to process element: {position} of 'instances' list. JSON object: {shown(row)} "
                f"must only have keys: {','.join(sorted(slots))}"
            )
    return {alias: np.stack(arrays) for alias, arrays in parts.items()}


def _is_named(row: Any) -> bool:
    return isinstance(row, dict) and not rest_json.is_base64(row)


def _check_form(row: Any, position: int, *, named: bool) -> None:
    if named and not _is_named(row):
        raise invalid_argument(f"Expecting object but got list at item {position} of input list")
    if not named and _is_named(row):
        raise invalid_argument(f"Expecting value/list but got object at item {position} of input list")


def _item(
    value: Any,
    alias: str,
    slots: Mapping[str, Slot],
    parts: Mapping[str, list[Array]],
    position: int,
    *,
    named: bool,
) -> Array:
    """One input of one row, of the shape of the rows before. Raises ServingError that says where it is."""
    try:
        if alias not in slots:
            raise invalid_argument(f"JSON object: does not have named input: {alias}")
        array = _array(value, slots[alias])
        if parts[alias] and parts[alias][0].size != array.size:
            raise invalid_argument(f"Expecting tensor size: {parts[alias][0].size} but got: {array.size}")
        if parts[alias] and parts[alias][0].shape != array.shape:
            raise invalid_argument(f"Expecting shape {_shown(parts[alias][0])} but got: {_shown(array)}")
        return array
    except ServingError as error:
        where = f"{position} key: {alias}" if named else f"{position}"
        raise invalid_argument(
            f"Failed to process element: {where} of 'instances' list. Error: {error.code.name}: {error.message}"
        ) from error


def _array(value: Any, slot: Slot) -> Array:
    kind = tensors.TYPES.get(slot.dtype)
    if kind is None:
        raise invalid_argument(f"Conversion of JSON Value: {shown(value)} to type: {tensors.type_name(slot.dtype)}")
    shape = _shape(value)
    leaves = [_leaf(leaf, kind) for leaf in _leaves(value, shape, 0, kind)]
    if kind.number == STRING:
        return tensors.strings(leaves).reshape(shape)
    try:
        return np.array(leaves, np.object_).astype(kind.numpy).reshape(shape)
    except (OverflowError, ValueError) as error:
        raise invalid_argument(f"JSON Value: {shown(value)} does not fit type: {kind.name} ({error})") from error


def _shape(value: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def _leaves(value: Any, shape: tuple[int, ...], level: int, kind: TensorType) -> Iterator[Any]:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid_argument(
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        yield value
        return
    if level >= len(shape):
        raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for part in value:
        yield from _leaves(part, shape, level + 1, kind)


def _leaf(value: Any, kind: TensorType) -> Any:
    if kind.number == STRING and isinstance(value, dict):
        return rest_json.from_base64(value)
    if kind.number == STRING and isinstance(value, str):
        return value.encode()
    if kind.numpy in _MAX_WHOLE and type(value) in (int, float):
        return _lossless(value, kind)
    if kind.numpy.kind in _NUMPY_INTEGERS and type(value) is int:
        limits = np.iinfo(kind.numpy)
        if limits.min <= value <= limits.max:
            return value
    if kind.numpy.kind == "b" and isinstance(value, bool):
        return value
    raise invalid_argument(
        f"JSON Value: {shown(value)} Type: {rest_json.type_name(value)} is not of expected type: {kind.name}"
    )


def _lossless(value: float, kind: TensorType) -> float:
    limit = _MAX_WHOLE[kind.numpy] if isinstance(value, int) else float(np.finfo(kind.numpy).max)
    if limit < abs(value) != math.inf:
        raise invalid_argument(f"Cannot convert JSON value: {shown(value)} to {kind.name} without loss of precision.")
    return value


def _wrong(document: Mapping[str, Any], what: str) -> ServingError:
    return invalid_argument(f"JSON Value: {shown(document)} {what}")


def _shown(array: Array) -> str:
    return f"[{','.join(str(size) for size in array.shape)}]"
