"""All settings, from `longtail.toml` and `LONGTAIL_*`; an unknown one refuses to start.

An environment variable wins over the file. Sections join by two underscores: `LONGTAIL_GATEWAY__ADDRESS`.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from console.settings import ConsoleSettings
from feature_repo.errors import LongtailError
from feature_repo.layout import StateDir
from feature_repo.settings import FeatureSettings
from serving.client_settings import ClientSettings
from serving.gateway.settings import GatewaySettings
from training.settings import TrainingSettings

PREFIX = "LONGTAIL_"
CONFIG_VARIABLE = "LONGTAIL_CONFIG"
DEFAULT_FILE = "longtail.toml"
SECRETS = {"jwt_secret", "token", "mlflow_tracking_uri"}  # never shown, whatever is wrong with them


class Settings(BaseSettings):
    """One installation of longtail."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    state_dir: Path = Field(Path("var"), description="Where everything is kept.")
    features: FeatureSettings = FeatureSettings()
    training: TrainingSettings = TrainingSettings()
    gateway: GatewaySettings = GatewaySettings()
    client: ClientSettings = ClientSettings()
    console: ConsoleSettings = ConsoleSettings()

    @property
    def state(self) -> StateDir:
        return StateDir(self.state_dir)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_FILE)))
        return init_settings, env_settings, toml


def load(overrides: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None) -> Settings:
    """Reads the settings. Raises LongtailError that names the setting, what was given and what is allowed."""
    environ = os.environ if environ is None else environ
    given = environ.get(CONFIG_VARIABLE)
    if given and not Path(given).is_file():
        raise LongtailError(f"{CONFIG_VARIABLE} names {given!r}, which is no file; unset it or write that file")
    known = {PREFIX + name.upper() for name in _names(Settings)} | {CONFIG_VARIABLE}
    for name in environ:
        if name.startswith(PREFIX) and name.upper() not in known and not _is_open(name.upper(), known):
            raise LongtailError(f"unknown setting {name}{_hint(name, known)}")
    try:
        return Settings(**(overrides or {}))
    except ValidationError as error:
        raise LongtailError(_explain(error, known)) from error
    except SettingsError as error:  # of a mapping, a list or a whole section
        raise LongtailError(_explain_json(error, environ)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LongtailError(f"{given or DEFAULT_FILE} is not valid TOML: {error}") from error


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation, f"{prefix}{name}__")


def _is_open(name: str, known: set[str]) -> bool:
    """True for an entry of a mapping, such as LONGTAIL_FEATURES__EVENT_WEIGHTS__VIEW."""
    parent = name.rpartition("__")[0]
    return parent.endswith(("EVENT_WEIGHTS", "MISSING_VALUES")) and parent in known


def _hint(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"


def _explain_json(error: SettingsError, environ: Mapping[str, str]) -> str:
    """Names the variables that hold the text; it is not shown, for a secret may stand in it."""
    wrong = error.__cause__
    if not isinstance(wrong, json.JSONDecodeError):
        return str(error)
    names = [name for name, text in environ.items() if name.startswith(PREFIX) and text == wrong.doc]
    return f"setting {', '.join(names)} is not JSON: {wrong}"


def _explain(error: ValidationError, known: set[str]) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting {name}{_hint(PREFIX + name.replace('.', '__').upper(), known)}")
        else:
            shown = "" if SECRETS.intersection(problem["loc"]) else _shown(problem.get("input"))
            lines.append(f"setting {name}{shown}: {problem['msg']}")
    return "; ".join(lines)


def _shown(given: Any) -> str:
    """A section is not shown: a secret may stand in it."""
    return f" = {given!r}" if isinstance(given, str | int | float | list) else ""
