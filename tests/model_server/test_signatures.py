"""The checks of a request against a signature: codes and texts of the real server."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from serving.model_server import signatures, tensors
from serving.model_server.errors import ServingError
from serving.model_server.signatures import Signature
from tests.model_server.conftest import predict_request
from tests.model_server.fakes import signature, slot

INT64 = 9


def refusal(request: Any, its: Signature | None = None) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(ServingError) as caught:
        signatures.check(request, {"serving_default": its or signature()})
    return caught.value.code, caught.value.message


def test_a_right_request_is_a_call() -> None:
    call = signatures.check(predict_request({"x": [1.0]}), {"serving_default": signature()})
    assert call.signature.name == "serving_default"
    assert call.inputs["x"].tolist() == [1.0]
    assert call.outputs == ("y",)


def test_an_unknown_signature_is_a_failed_precondition() -> None:
    code, text = refusal(predict_request({"x": [1.0]}, signature="s"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert text == 'Serving signature key "s" not found.'


def test_the_init_op_is_no_signature_to_predict_with() -> None:
    init = Signature(name="__saved_model_init_op", method_name="", inputs=(), outputs=(slot("op"),), defaults={})
    code, text = refusal(predict_request(), init)
    assert code is grpc.StatusCode.INTERNAL
    assert text.startswith("Expected prediction signature method_name")


def test_another_number_of_inputs_is_named() -> None:
    code, text = refusal(predict_request())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text == (
        "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}."
    )
    _, text = refusal(predict_request({"x": [1.0], "z": [1.0]}))
    assert "2!=1 len({x,z}) != len({x}). Sent extra: {z}. Missing but required: {}." in text


def test_another_name_is_told() -> None:
    code, text = refusal(predict_request({"z": [1.0]}))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith(
        "Signature input alias: x(feed name: x:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {z}, "
    )


def test_types_are_never_cast() -> None:
    its = signature(inputs=(slot("a"), slot("b", dtype=INT64)))
    code, text = refusal(predict_request({"a": [1.0], "b": np.array([1], np.int32)}), its)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text == "Expects arg[1] to be int64 but int32 is provided"


def test_a_tensor_that_is_none_is_named() -> None:
    request = predict_request({"x": [1.0]})
    request.inputs["x"].tensor_content = b"123"
    assert refusal(request) == (grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: x")


def test_an_unknown_output_is_named() -> None:
    code, text = refusal(predict_request({"x": [1.0]}, outputs=("n",)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text == "output tensor alias not found in signature: n Outputs expected to be in the set {y}."


def test_an_output_asked_for_twice_is_refused() -> None:
    code, text = refusal(predict_request({"x": [1.0]}, outputs=("y", "y")))
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, "duplicate output tensor alias: y")


def test_the_shape_is_not_checked() -> None:
    call = signatures.check(predict_request({"x": [[1.0, 2.0]]}), {"serving_default": signature()})
    assert call.inputs["x"].shape == (1, 2)


def test_a_default_stands_in_for_an_input() -> None:
    its = signature(inputs=(slot("x"), slot("z")), defaults={"z": tensors.encode(np.array([7.0], np.float32))})
    call = signatures.check(predict_request({"x": [1.0]}), {"serving_default": its})
    assert call.inputs["z"].tolist() == [7.0]


def test_an_unknown_input_beside_defaults_is_refused() -> None:
    its = signature(inputs=(slot("x"), slot("z")), defaults={"z": tensors.encode(np.array([7.0], np.float32))})
    _, text = refusal(predict_request({"x": [1.0], "w": [1.0]}), its)
    assert text == "Inputs contains invalid name. Used request inputs: x, request input: w,x"


@pytest.mark.parametrize(
    ("shape", "is_rowwise"), [((-1,), True), ((-1, 3), True), ((3,), False), ((), False), (None, False)]
)
def test_only_an_unknown_first_dimension_is_rows(shape: tuple[int, ...] | None, is_rowwise: bool) -> None:
    assert signature(inputs=(slot("x", shape=shape),)).is_rowwise is is_rowwise
    assert signature(outputs=(slot("y", shape=shape),)).is_rowwise is is_rowwise
