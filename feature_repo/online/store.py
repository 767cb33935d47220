"""The feature store: a folder with feature_store.yaml that this code and a plain Feast SDK open alike."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote, urlsplit

from feature_repo.errors import LongtailError
from feature_repo.layout import StateDir
from feature_repo.settings import FeatureSettings

if TYPE_CHECKING:
    from feature_repo.contract import View
    from feature_repo.feast_api import FeatureStore, FeatureView

PROJECT: Final = "longtail"
REDIS_TIMEOUT_S: Final = 5


class FeatureStoreError(LongtailError):
    """The feature store is not there, or does not answer."""


def apply(state: StateDir, settings: FeatureSettings) -> list[str]:
    """Writes feature_store.yaml, registers the contract's views and makes the online store. Returns the views."""
    from feature_repo.contract import VIEWS
    from feature_repo.definitions import repository

    yaml = state.feast / "feature_store.yaml"
    state.feast.mkdir(parents=True, exist_ok=True)
    unfinished = yaml.with_suffix(".unfinished")
    unfinished.touch(mode=0o600)  # it may hold a password
    unfinished.write_text(json.dumps(store_config(settings), indent=2) + "\n")  # JSON is YAML
    unfinished.replace(yaml)
    if settings.online_store == "sqlite":
        _let_readers_read_while_written(state.feast / "online.db")
    store = open_store(state, settings)
    store.apply(repository())
    for view in store.list_feature_views():  # a view without rows yet, such as user_weights, may be asked for
        if not view.materialization_intervals:
            epoch = datetime(1970, 1, 1, tzinfo=UTC)
            store.registry.apply_materialization(view, PROJECT, epoch, epoch)
    return [view.name for view in VIEWS]


def open_store(state: StateDir, settings: FeatureSettings) -> FeatureStore:
    """Opens what `apply` wrote. One store per process: two of them slow each other down.

    Raises FeatureStoreError when nothing was applied, or for another online store than the settings say.
    """
    yaml = state.feast / "feature_store.yaml"
    if not yaml.exists():
        raise FeatureStoreError(f"there is no feature store in {state.feast}; run `longtail features apply`")
    if json.loads(yaml.read_text()) != store_config(settings):
        raise FeatureStoreError(
            f"{yaml} was written for other settings of the online store; run `longtail features apply`, then "
            "`longtail features materialize`"
        )
    # it advises against serve_features_while_materializing on every start, for a case that is not ours
    logging.getLogger("feast.repo_config").addFilter(_is_no_serving_advice)
    from feature_repo.feast_api import FeatureStore

    return FeatureStore(repo_path=str(state.feast.absolute()))


def registered_view(store: FeatureStore, view: View) -> FeatureView:
    """Feast's view of that name. Raises FeatureStoreError when there is none, or not as in the contract."""
    from feature_repo.definitions import feature_view
    from feature_repo.feast_api import FeatureViewNotFoundException

    remedy = "run `longtail features build`, `longtail features apply` and `longtail features materialize`"
    try:
        found = store.get_feature_view(view.name)
    except FeatureViewNotFoundException as error:
        raise FeatureStoreError(f"Feast's registry has no view {view.name!r}; {remedy}") from error
    theirs, ours = ({(field.name, str(field.dtype)) for field in each.features} for each in (found, feature_view(view)))
    if theirs != ours:
        names = ", ".join(sorted({name for name, _ in theirs ^ ours}))
        raise FeatureStoreError(
            f"Feast's registry has {view.name!r} of another version of longtail, it differs in {names}; {remedy}"
        )
    return found


def store_config(settings: FeatureSettings) -> dict[str, object]:
    """feature_store.yaml. Paths are relative to its folder, so that the state directory can be moved."""
    online: dict[str, object] = {"type": "sqlite", "path": "online.db"}
    if settings.online_store == "redis":
        # no key_ttl_seconds: it would expire dormant users. skip_dedup: a row written twice within the clock's
        # step must not be lost; `OnlineStore.load` itself keeps a newer row.
        online = {
            "type": "redis",
            "connection_string": redis_connection_string(settings.redis_url),
            "skip_dedup": True,
        }
    return {
        "project": PROJECT,
        "provider": "local",
        "registry": {
            "path": "registry.db",
            "cache_ttl_seconds": 0,  # never on its own: a refresh stalls a request, and views change with the code
            "serve_features_while_materializing": True,
        },
        "offline_store": {"type": "file"},
        "online_store": online,
        "entity_key_serialization_version": 3,
    }


def redis_connection_string(url: str) -> str:
    """redis://user:password@host:port/db as Feast writes it. Raises FeatureStoreError for what is no such URL."""
    parts = urlsplit(url)
    try:
        port = parts.port or 6379
    except ValueError:
        port = -1
    db = parts.path.strip("/") or "0"
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or port < 0 or not db.isdecimal():
        raise FeatureStoreError(
            f"redis_url is {_without_password(url)!r}; give redis://HOST:PORT/DB, or rediss:// for TLS"
        )
    options = {"db": db, "socket_timeout": str(REDIS_TIMEOUT_S), "socket_connect_timeout": str(REDIS_TIMEOUT_S)}
    if parts.scheme == "rediss":
        options["ssl"] = "true"
    for name, value in (("username", parts.username), ("password", parts.password)):
        if value:
            if "," in unquote(value):
                raise FeatureStoreError(f"the {name} in redis_url has a comma, which Feast cannot take")
            options[name] = unquote(value)
    return ",".join([f"{parts.hostname}:{port}", *(f"{name}={value}" for name, value in options.items())])


def redis_url(connection_string: str) -> str:
    """`redis_connection_string`, backwards."""
    address, *options = connection_string.split(",")
    named = dict(option.split("=", 1) for option in options)
    user, password = (quote(named.get(name, ""), safe="") for name in ("username", "password"))
    login = f"{user}:{password}@" if user or password else ""
    return f"redis{'s' if 'ssl' in named else ''}://{login}{address}/{named.get('db', '0')}"


def _without_password(url: str) -> str:
    before, at, after = url.rpartition("@")
    return f"…@{after}" if at else before + after


def _let_readers_read_while_written(file: Path) -> None:
    """Write-ahead logging, which stays with the file."""
    with closing(sqlite3.connect(file)) as con:
        con.execute("PRAGMA journal_mode = WAL")


def _is_no_serving_advice(record: logging.LogRecord) -> bool:
    return "serve_features_while_materializing" not in record.getMessage()
