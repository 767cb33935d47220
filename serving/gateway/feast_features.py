"""Feature rows from Feast's online store.

The views are looked up once: the registry is not read while serving, so that its refresh cannot stall the event loop,
and a materialization elsewhere cannot make reads fail. Values come by feature name: their order is not to be relied on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from feast import FeatureStore
from feast.errors import FeatureViewNotFoundException
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from feature_repo.contract import USER_VIEWS, FeatureValue
from feature_repo.errors import LongtailError
from serving.gateway.domain import Row, Rows, UserId
from serving.gateway.errors import Cause, FeaturesError

Answer = list[tuple[datetime | None, dict[str, Value] | None]]


class FeastFeatures:
    """Asks Redis without blocking; SQLite from one thread, which Feast's one connection needs."""

    def __init__(self, store: FeatureStore) -> None:
        self._config = store.config
        self._provider: Any = store.provider
        self._views = [_view(store, view.name) for view in USER_VIEWS]
        self._is_async = bool(self._provider.async_supported.online.read)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="online-store")

    async def read(self, user_id: UserId, *, timeout_s: float) -> Rows:
        key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user_id)])
        try:
            async with asyncio.timeout(timeout_s):
                answers = await (self._read_async(key) if self._is_async else self._read_in_thread(key))
            return dict(_rows(self._views, answers))
        except TimeoutError:
            raise FeaturesError(Cause.TIMEOUT, f"no answer within {timeout_s * 1000:.0f} ms") from None
        except Exception as error:  # whatever a store's client raises, it did not answer
            raise FeaturesError(Cause.UNAVAILABLE, f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _read_async(self, key: EntityKey) -> list[Answer]:
        reads = (self._provider.online_read_async(self._config, view, [key], None) for view in self._views)
        return list(await asyncio.gather(*reads))

    async def _read_in_thread(self, key: EntityKey) -> list[Answer]:
        def read() -> list[Answer]:
            return [self._provider.online_read(self._config, view, [key], None) for view in self._views]

        return await asyncio.get_running_loop().run_in_executor(self._thread, read)


def _view(store: FeatureStore, name: str) -> Any:
    try:
        return store.get_feature_view(name)
    except FeatureViewNotFoundException as error:
        raise LongtailError(f"Feast's registry has no view {name!r}; run `longtail features apply`") from error


def _rows(views: list[Any], answers: list[Answer]) -> Iterator[tuple[str, Row]]:
    """Redis answers for an unknown user with empty values of 1970, SQLite with none: neither is a row."""
    for view, [(time, values)] in zip(views, answers, strict=True):
        if time is not None and values and time.timestamp() > 0:
            row = {name: _value(value) for name, value in values.items()}
            yield view.name, Row(values=row, event_unix_s=time.timestamp())


def _value(proto: Value) -> FeatureValue:
    kind = proto.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    value = getattr(proto, kind)
    decoded: FeatureValue = list(value.val) if kind.endswith("_list_val") else value
    return decoded
