"""The online stores that features are served from, each with a fresh state directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from feature_repo.layout import StateDir
from feature_repo.settings import FeatureSettings
from tests.redis_server import redis_server


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Where a test keeps its state, and the settings that go with it."""

    state: StateDir
    settings: FeatureSettings


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["sqlite", "redis"])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Installation:
    if request.param == "sqlite":
        return Installation(state=StateDir(tmp_path), settings=FeatureSettings())
    url = request.getfixturevalue("redis_url")
    redis.Redis.from_url(url).flushall()
    settings = FeatureSettings(online_store="redis", redis_url=url)
    return Installation(state=StateDir(tmp_path), settings=settings)
