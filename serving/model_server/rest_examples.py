"""JSON → tf.Examples for the REST classify and regress calls, and their results as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from serving.model_server import rest_json
from serving.model_server.errors import ServingError, invalid_argument
from serving.model_server.rest_json import shown

EXAMPLES: Final = "examples"
CONTEXT: Final = "context"
_MAX_WHOLE: Final = (1 << 63) - 1
_KINDS: Final = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def fill_request(request: Any, body: bytes) -> None:
    """Puts the JSON body's examples into a Classification- or RegressionRequest. Raises ServingError."""
    document = rest_json.parse(body)
    request.model_spec.signature_name = rest_json.signature_name(document)
    listed = request.input.example_list
    if CONTEXT in document:
        listed = request.input.example_list_with_context
        _fill_example(listed.context, document[CONTEXT])
    if EXAMPLES not in document:
        raise _wrong(document, f"When method is classify, key '{EXAMPLES}' is expected and was not found")
    if not isinstance(document[EXAMPLES], list):
        raise _wrong(document, f"Expecting '{EXAMPLES}' value to be an list/array")
    if not document[EXAMPLES]:
        raise _wrong(document, f"'{EXAMPLES}' value is an empty array")
    for value in document[EXAMPLES]:
        _fill_example(listed.examples.add(), value)


def classification_json(result: Any) -> str:
    """A ClassificationResult: for each example its classes, each a label and a score."""
    return rest_json.results(
        rest_json.classes((each.label, each.score) for each in example.classes) for example in result.classifications
    )


def regression_json(result: Any) -> str:
    """A RegressionResult: for each example its value."""
    return rest_json.results(rest_json.decimal(each.value, np.dtype(np.float32)) for each in result.regressions)


def _fill_example(example: Any, value: Any) -> None:
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {rest_json.type_name(value)}")
    for name, content in value.items():
        feature = example.features.feature[name]
        for item in content if isinstance(content, list) else [content]:
            _add(feature, name, item)


def _add(feature: Any, name: str, value: Any) -> None:
    kind, converted = _converted(name, value)
    found = feature.WhichOneof("kind")
    if found not in (None, kind):
        raise invalid_argument(f"Unexpected element type in feature: {name} expecting type: {_KINDS[found]}")
    getattr(feature, kind).value.append(converted)


def _converted(name: str, value: Any) -> tuple[str, Any]:
    if isinstance(value, int):  # bool is int, and true is 1
        if not -_MAX_WHOLE - 1 <= value <= _MAX_WHOLE:
            raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return "int64_list", int(value)
    if isinstance(value, float):
        if np.isfinite(value) and abs(value) > np.finfo(np.float32).max:
            raise invalid_argument(f"Cannot convert JSON value: {shown(value)} to float without loss of precision.")
        return "float_list", value
    if isinstance(value, str):
        return "bytes_list", value.encode()
    if rest_json.is_base64(value):
        return "bytes_list", rest_json.from_base64(value)
    raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {rest_json.type_name(value)}")


def _wrong(document: Mapping[str, Any], what: str) -> ServingError:
    return invalid_argument(f"JSON Value: {shown(document)} {what}")
