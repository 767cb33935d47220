"""A file of training settings: written by `tune`, read by `train --config`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from feature_repo.errors import LongtailError
from training.settings import TrainingSettings, learning_settings


def with_file(settings: TrainingSettings, path: Path) -> TrainingSettings:
    """The settings with those of a TOML file put over them, at its top level or under [training]."""
    try:
        given = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LongtailError(f"--config {path} cannot be read as TOML: {error}") from error
    given = given.get("training", given)
    try:
        return TrainingSettings.model_validate(settings.model_dump() | given)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, row['loc']))} = {row['input']!r}: {row['msg']}" for row in error.errors()]
        raise LongtailError(
            f"--config {path}: {'; '.join(problems)}; the settings are {', '.join(TrainingSettings.model_fields)}"
        ) from error


def write(settings: TrainingSettings, path: Path, *, head: str, first: Iterable[str]) -> None:
    """Every setting that learning depends on, under [training], with a comment at its head; those of `first` lead."""
    values = {name: value for name, value in learning_settings(settings).items() if value is not None}
    order = dict.fromkeys([*first, "configurations_tried", *values])
    lines = [f"{name} = {_toml(values[name])}" for name in order]
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text("\n".join([f"# {head}", "[training]", *lines, ""]))
        draft.replace(path)
    except OSError as error:
        raise LongtailError(f"{path} cannot be written: {error}") from error


def _toml(value: Any) -> str:
    """JSON is TOML but for its mappings.

    >>> _toml({"a b": [1, 0.5, "c"]})
    '{ "a b" = [1, 0.5, "c"] }'
    """
    if not isinstance(value, dict):
        return json.dumps(value)
    return "{ " + ", ".join(f"{json.dumps(name)} = {_toml(one)}" for name, one in value.items()) + " }"
