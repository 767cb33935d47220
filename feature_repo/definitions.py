"""Feast's objects, made from the contract. Paths are relative to the folder of feature_store.yaml."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from feature_repo.contract import USER_VIEWS, VIEWS, Dtype, View
from feature_repo.feast_api import (
    Array,
    Bool,
    DataSource,
    Entity,
    FeastType,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    Float32,
    Int64,
    String,
    ValueType,
)

USER_SERVICE: Final = "user_features_v1"
ITEM_SERVICE: Final = "item_features_v1"
TIME: Final = "event_timestamp"

_TYPES: Final[dict[Dtype, FeastType]] = {
    Dtype.STRING: String,
    Dtype.INT64: Int64,
    Dtype.FLOAT32: Float32,
    Dtype.BOOL: Bool,
    Dtype.STRINGS: Array(String),
    Dtype.INT64S: Array(Int64),
    Dtype.FLOAT32S: Array(Float32),
}

USER: Final = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="A product's user.")
ITEM: Final = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="What is shown.")
_ENTITIES: Final = {"user_id": USER, "item_id": ITEM}


def feature_view(view: View, source: DataSource | None = None) -> FeatureView:
    """A view of the contract. ttl 0: nothing expires; `View.fresh_for` says from which age serving calls it stale.

    `source` is another registry's: any of the view's table, with `event_timestamp`.
    """
    entity = _ENTITIES[view.entity]
    features = [
        Field(
            name=feature.name,
            dtype=_TYPES[feature.dtype],
            description=feature.description,
            tags={"unit": feature.unit},
        )
        for feature in view.features
    ]
    return FeatureView(
        name=view.name,
        entities=[entity],
        schema=[Field(name=view.entity, dtype=String), *features],
        source=source or FileSource(name=view.name, path=f"../features/{view.name}.parquet", timestamp_field=TIME),
        ttl=timedelta(0),
        online=True,
        owner=view.owner,
        description=view.description,
    )


def repository() -> list[Any]:
    """Everything that `longtail features apply` registers."""
    by_name = {view.name: feature_view(view) for view in VIEWS}
    users = [by_name[view.name] for view in USER_VIEWS]
    items = [by_name[view.name] for view in VIEWS if view not in USER_VIEWS]
    return [
        USER,
        ITEM,
        *by_name.values(),
        FeatureService(name=USER_SERVICE, features=list(users), description="Everything known of a user."),
        FeatureService(name=ITEM_SERVICE, features=list(items), description="Everything known of an item."),
    ]
