"""A file of training settings: written by `tune`, read by `train --config`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from feature_repo.errors import LongtailError
from training.settings import NOT_LEARNING, TrainingSettings


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
    kept = {
        name for name in TrainingSettings.model_fields if name not in NOT_LEARNING or name == "configurations_tried"
    }
    order = [*first, "configurations_tried", *(name for name in TrainingSettings.model_fields if name in kept)]
    values = settings.model_dump(mode="json", exclude_none=True)
    lines = [f"{name} = {json.dumps(values[name])}" for name in dict.fromkeys(order) if name in values]
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text("\n".join([f"# {head}", "[training]", *lines, ""]))
        draft.replace(path)
    except OSError as error:
        raise LongtailError(f"{path} cannot be written: {error}") from error
