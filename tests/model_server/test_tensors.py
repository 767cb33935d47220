"""TensorProto ↔ numpy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.model_server.tensors import TYPES, MalformedTensorError, TensorProto, decode, encode

NUMERIC = [
    np.float32,
    np.float64,
    np.float16,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.uint8,
    np.uint16,
    np.uint32,
    np.uint64,
    np.bool_,
    np.complex64,
    np.complex128,
]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
numeric_arrays = st.sampled_from(NUMERIC).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
string_arrays = hnp.arrays(np.object_, SHAPES, elements=st.binary(max_size=8), fill=st.nothing())


def same(a: Any, b: Any) -> bool:
    if a.dtype == np.object_:
        return bool(a.shape == b.shape and a.tolist() == b.tolist())
    return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())


@given(numeric_arrays | string_arrays)
def test_what_is_encoded_is_decoded(array: Any) -> None:
    assert same(decode(encode(array)), array)


@given(numeric_arrays | string_arrays)
def test_tensorflow_reads_what_we_write(array: Any) -> None:
    proto = tf.make_tensor_proto(0)
    proto.ParseFromString(encode(array).SerializeToString())
    assert same(tf.make_ndarray(proto), array)


@given(numeric_arrays)
def test_we_read_tensor_content_as_tensorflow_writes_it(array: Any) -> None:
    written = tf.make_tensor_proto(array)
    assert same(decode(TensorProto.FromString(written.SerializeToString())), array)


@given(string_arrays)
def test_we_read_strings_that_tensorflow_packed(array: Any) -> None:
    packed = tf.io.serialize_tensor(tf.constant(array, tf.string)).numpy()
    assert same(decode(TensorProto.FromString(packed)), array)


def test_bfloat16_keeps_its_bits() -> None:
    array = np.array([1.5, -2.0, float("inf")], ml_dtypes.bfloat16)
    assert same(decode(encode(array)), array)


def test_too_few_values_repeat_the_last() -> None:
    assert decode(tensor(1, [4], float_val=[1.0, 2.0])).tolist() == [1.0, 2.0, 2.0, 2.0]
    assert decode(tensor(7, [3], string_val=[b"a"])).tolist() == [b"a", b"a", b"a"]


@pytest.mark.parametrize("number", sorted(TYPES))
def test_no_values_means_zeros(number: int) -> None:
    zero = b"" if number == 7 else 0
    assert decode(tensor(number, [2])).tolist() == [zero, zero]


def test_surplus_values_are_ignored() -> None:
    assert decode(tensor(9, [2], int64_val=[1, 2, 3])).tolist() == [1, 2]
    assert decode(tensor(8, [1], scomplex_val=[1, 2, 3])).tolist() == [1 + 2j]


def test_small_integers_wrap_as_in_the_real_server() -> None:
    assert decode(tensor(6, [1], int_val=[300])).tolist() == [44]


@pytest.mark.parametrize(
    "proto",
    [
        pytest.param(TensorProto(), id="no type"),
        pytest.param(TensorProto(dtype=20), id="a resource"),
        pytest.param(TensorProto(dtype=33), id="a type from the future"),
        pytest.param(TensorProto(dtype=1, tensor_content=b"123"), id="content of the wrong size"),
        pytest.param(TensorProto(dtype=7, tensor_content=b"\x05ab"), id="a string cut off"),
        pytest.param(TensorProto(dtype=7, tensor_content=b"\xff\xff"), id="a length cut off"),
        pytest.param(TensorProto(dtype=1, tensor_shape={"unknown_rank": True}), id="no rank"),
        pytest.param(TensorProto(dtype=1, tensor_shape={"dim": [{"size": -1}]}), id="a negative size"),
        pytest.param(TensorProto(dtype=1, tensor_shape={"dim": [{"size": 1 << 40}]}), id="a terabyte of zeros"),
        pytest.param(
            TensorProto(dtype=7, tensor_shape={"dim": [{"size": 1 << 40}]}, tensor_content=b"1"), id="strings"
        ),
    ],
)
def test_what_is_no_tensor_is_refused(proto: Any) -> None:
    with pytest.raises(MalformedTensorError):
        decode(proto)


@given(st.binary(max_size=64))
def test_no_message_breaks_the_decoder(content: bytes) -> None:
    for number in (1, 7, 9, 14):
        try:
            decode(TensorProto(dtype=number, tensor_shape={"dim": [{"size": 3}]}, tensor_content=content))
        except MalformedTensorError:
            continue


def tensor(dtype: int, shape: list[int], **values: Any) -> Any:
    return TensorProto(dtype=dtype, tensor_shape={"dim": [{"size": size} for size in shape]}, **values)
