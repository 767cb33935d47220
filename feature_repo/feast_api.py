"""What longtail uses of Feast: every import of it goes through here, so that it is quick.

Feast marks its classes for run-time type checks, which typeguard compiles while Feast is imported: two thirds of the
time that takes. Python's -O leaves them out, and so does this; what longtail gives to Feast is checked by mypy.
"""

from __future__ import annotations

import warnings
from typing import Any

import typeguard


def _unchecked(target: Any = None, **_: Any) -> Any:
    """In the place of `typeguard.typechecked`, with or without options."""
    return _unchecked if target is None else target


_checked = typeguard.typechecked
typeguard.typechecked = _unchecked
try:
    with warnings.catch_warnings():  # Feast turns on every DeprecationWarning of the process, whoever is meant
        from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
        from feast.data_source import DataSource
        from feast.errors import FeatureViewNotFoundException
        from feast.infra.key_encoding_utils import serialize_entity_key
        from feast.infra.online_stores.helpers import _mmh3 as hash_of_field
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value
        from feast.types import Array, Bool, FeastType, Float32, Int64, String
finally:
    typeguard.typechecked = _checked

__all__ = [
    "Array",
    "Bool",
    "DataSource",
    "Entity",
    "EntityKey",
    "FeastType",
    "FeatureService",
    "FeatureStore",
    "FeatureView",
    "FeatureViewNotFoundException",
    "Field",
    "FileSource",
    "Float32",
    "Int64",
    "String",
    "Value",
    "ValueType",
    "hash_of_field",
    "serialize_entity_key",
]
