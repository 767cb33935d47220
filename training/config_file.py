"""A file of training settings, for `train --config`."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import ValidationError

from feature_repo.errors import LongtailError
from training.settings import TrainingSettings


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
