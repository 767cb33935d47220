"""Columns as the bytes of Feast's messages."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types import Value_pb2
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.contract import USER_ACTIVITY, Dtype
from feature_repo.online.store import redis_connection_string, redis_url
from feature_repo.online.value_bytes import ARROW_TYPES, VALUE_FIELDS, encode_column
from feature_repo.online.value_format import PROJECT, entity_key, entity_keys, hash_field

TEXTS = st.text(max_size=200).filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text))
INT64S = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 300))
FLOATS = st.floats(width=32, allow_nan=False)
CELLS: dict[Dtype, st.SearchStrategy[Any]] = {
    Dtype.STRING: TEXTS,
    Dtype.INT64: INT64S,
    Dtype.FLOAT32: FLOATS,
    Dtype.BOOL: st.booleans(),
    Dtype.STRINGS: st.lists(TEXTS, max_size=5),
    Dtype.INT64S: st.lists(INT64S, max_size=60),
    Dtype.FLOAT32S: st.lists(FLOATS, max_size=60),
}


def feasts(dtype: Dtype, cell: Any) -> bytes:
    value = Value_pb2.Value()
    field = value.DESCRIPTOR.fields_by_number[VALUE_FIELDS[dtype]]
    if cell is None:
        return b""
    if isinstance(cell, list):
        getattr(value, field.name).val.extend(cell)
        getattr(value, field.name).SetInParent()
    else:
        setattr(value, field.name, cell)
    return value.SerializeToString()


@pytest.mark.parametrize("dtype", list(Dtype))
def test_a_column_is_what_feast_serializes_cell_by_cell(dtype: Dtype) -> None:
    @given(st.lists(st.none() | CELLS[dtype], max_size=20), st.integers(0, 3))
    def check(cells: list[Any], skipped: int) -> None:
        column = pa.array(cells, ARROW_TYPES[dtype])[skipped:]  # a slice has another start in its buffers
        assert encode_column(column, dtype).to_pylist() == [feasts(dtype, cell) for cell in cells[skipped:]]

    check()


def test_the_fields_are_those_of_feasts_message() -> None:
    names = {number: Value_pb2.Value.DESCRIPTOR.fields_by_number[number].name for number in VALUE_FIELDS.values()}
    assert list(names.values()) == [
        "string_val",
        "int64_val",
        "float_val",
        "bool_val",
        "string_list_val",
        "int64_list_val",
        "float_list_val",
    ]


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_keys_and_fields_are_feasts(user_ids: list[str]) -> None:
    keys = entity_keys("user_id", pa.array(user_ids, pa.string())).to_pylist()
    assert keys == [entity_key("user_id", user_id) for user_id in user_ids]
    for user_id, key in zip(user_ids, keys, strict=True):
        feasts_key = EntityKey(join_keys=["user_id"], entity_values=[Value_pb2.Value(string_val=user_id)])
        assert key + PROJECT.encode() == _redis_key(PROJECT, feasts_key, 3)
    for name in USER_ACTIVITY.feature_names():
        assert hash_field(USER_ACTIVITY, name) == _mmh3(f"user_activity:{name}")


@pytest.mark.parametrize("url", ["redis://localhost:6379/0", "rediss://me:s%40c%3Art@example.org:7000/3"])
def test_a_connection_string_becomes_the_url_it_came_from(url: str) -> None:
    assert redis_url(redis_connection_string(url)) == url
