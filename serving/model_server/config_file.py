"""The --model_config_file: read at the start, and again every now and then where that is asked for."""

from __future__ import annotations

import asyncio
import logging

from serving.model_server import text_config
from serving.model_server.catalog import Catalog
from serving.model_server.config import ModelConfig, ModelServerConfig, model_configs
from serving.model_server.errors import ServingError, StartError

log = logging.getLogger(__name__)


def read(path: str, current: tuple[ModelConfig, ...] = ()) -> tuple[ModelConfig, ...]:
    """The models of a file, to follow the current ones. Raises StartError."""
    message = text_config.read(path, ModelServerConfig)
    if message.WhichOneof("config") == "custom_model_config":
        raise StartError("ModelServer does not yet support custom model config.")
    try:
        return model_configs(message, current)
    except ServingError as error:
        raise StartError(f"{error.code.name}: {error.message}") from error


async def watch(path: str, catalog: Catalog, wait_s: float) -> None:
    """Reads the file again and again, until cancelled; one that is wrong changes nothing and is logged."""
    while True:
        await asyncio.sleep(wait_s)
        try:
            await catalog.reload(await asyncio.to_thread(read, path, catalog.configs))
        except StartError as error:
            log.error("Failed to read ModelServerConfig file: %s", error)
        except ServingError as error:
            log.error("PollFilesystemAndReloadConfig failed to ReloadConfig: %s", error.message)
