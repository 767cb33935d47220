"""Which models are served: ModelServerConfig checked, with the real server's order and texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from longtail.tfserving import message_class
from serving.model_server.errors import invalid_argument
from serving.model_server.versions import Policy, every, latest, specific

ModelServerConfig = message_class("tensorflow.serving.ModelServerConfig")

PLATFORM: Final = "tensorflow"
_MODEL_TYPE: Final = 1  # the deprecated ModelType.TENSORFLOW


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One model: where its versions are, which of them to serve, and what they are called."""

    name: str
    base_path: Path
    policy: Policy = field(default_factory=latest)
    labels: Mapping[str, int] = field(default_factory=dict)
    platform: str = PLATFORM


def model_configs(message: Any, current: Iterable[ModelConfig] = ()) -> tuple[ModelConfig, ...]:
    """The models of a ModelServerConfig that is to follow the current one. Raises ServingError."""
    models = message.model_config_list.config
    _check_names_and_paths(models)
    platforms = {config.name: config.platform for config in current}
    for model in models:
        platform = _platform(model)
        if platforms.get(model.name, platform) != platform:
            raise invalid_argument(
                f"Illegal to change a model's platform. For model {model.name} platform was {platforms[model.name]} "
                f"and new platform requested is {platform}"
            )
        if platform != PLATFORM:
            raise invalid_argument(f"Model {model.name} requests unsupported platform {platform}")
    return tuple(_model_config(model) for model in models)


def _check_names_and_paths(models: Iterable[Any]) -> None:
    seen: set[str] = set()
    for model in models:
        if model.name in seen:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        seen.add(model.name)
    for model in models:
        if not urlsplit(model.base_path).scheme and not Path(model.base_path).is_absolute():
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )


def _platform(model: Any) -> str:
    if model.model_type and model.model_platform:
        raise invalid_argument(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
        )
    if model.model_type and model.model_type != _MODEL_TYPE:
        raise invalid_argument(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
    if not model.model_type and not model.model_platform:
        raise invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
    return str(model.model_platform) or PLATFORM


def _model_config(model: Any) -> ModelConfig:
    return ModelConfig(
        name=model.name,
        base_path=_local(model.name, model.base_path),
        policy=_policy(model.model_version_policy),
        labels=dict(model.version_labels),
    )


def _local(name: str, base_path: str) -> Path:
    parts = urlsplit(base_path)
    if parts.scheme not in ("", "file"):
        raise invalid_argument(
            f"Model {name} has base_path {base_path}; the embedded server reads the local file system only: "
            "give an absolute path"
        )
    return Path(parts.path if parts.scheme else base_path)


def _policy(policy: Any) -> Policy:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return every
    if choice == "specific":
        return specific(policy.specific.versions)
    return latest(policy.latest.num_versions)
