"""Feature rows from Feast's online store.

The views are looked up once: the registry is not read while serving, so that its refresh cannot stall the event loop,
and a materialization elsewhere cannot make reads fail. Calls that wait together are read together.
"""

from __future__ import annotations

import asyncio
from typing import Final

from feature_repo.contract import USER_VIEWS
from feature_repo.feast_api import FeatureStore
from feature_repo.online.store import registered_view
from serving.gateway.domain import Rows, UserId
from serving.gateway.errors import Cause, FeaturesError
from serving.gateway.features.feast_rows import RedisRows, SqliteRows, StoredRows
from serving.gateway.load.coalescing import Coalescer

USERS_A_TRIP: Final = 64
REDIS_TRIPS: Final = 4  # a slow one must not hold up all
PATIENCE_S: Final = 0.003  # several times what Redis takes


class FeastFeatures:
    """Asks Redis without blocking; SQLite from one thread."""

    def __init__(self, store: FeatureStore) -> None:
        views = [registered_view(store, view) for view in USER_VIEWS]
        is_redis = store.config.online_store.type == "redis"
        self._stored: StoredRows = RedisRows(store, views) if is_redis else SqliteRows(store, views)
        self._reads: Coalescer[UserId, Rows] = Coalescer(
            self._stored.read, most=USERS_A_TRIP, trips=REDIS_TRIPS if is_redis else 1, patience_s=PATIENCE_S
        )

    async def read(self, user_id: UserId, *, timeout_s: float) -> Rows:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._reads.get(user_id)
        except TimeoutError:
            raise FeaturesError(Cause.TIMEOUT, f"no answer within {timeout_s * 1000:.0f} ms") from None
        except Exception as error:  # whatever a store's client raises, it did not answer
            raise FeaturesError(Cause.UNAVAILABLE, f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        self._stored.close()
