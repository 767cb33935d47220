"""What `longtail tune` varies: for each setting a range or a choice, of the setting's own type."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from feature_repo.errors import LongtailError
from training.settings import NOT_LEARNING, TrainingSettings

FIXED: Final = NOT_LEARNING | {"seed", "history_length", "validation_from", "test_from"}
"""They name the question and not the answer: with another seed or split a score is luck, not a better model."""


class Range(BaseModel):
    """Numbers between two bounds, both included; whole ones for a whole setting."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("a range with log = true must begin above 0")
        return self

    def bounds(self) -> tuple[Any, ...]:
        return self.low, self.high

    def has(self, value: Any) -> bool:
        return bool(self.low <= value <= self.high)


class Choice(BaseModel):
    """One of these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choices: tuple[bool | int | float | str, ...] = Field(min_length=2)

    def bounds(self) -> tuple[Any, ...]:
        return self.choices

    def has(self, value: Any) -> bool:
        return value in self.choices


Dimension = Range | Choice
Space = Mapping[str, Dimension]

_EVERYWHERE: Final[dict[str, Dimension]] = {
    "learning_rate": Range(low=5e-4, high=8e-3, log=True),
    "embedding_size": Choice(choices=(32, 64, 96, 128)),  # each divides by any number of heads below
    "dropout": Range(low=0.0, high=0.6),
    "half_life_days": Choice(choices=(0.0, 30.0, 90.0, 365.0)),
}
_SEQUENCES: Final[dict[str, Dimension]] = {
    **_EVERYWHERE,
    "num_blocks": Range(low=1, high=3),
    "sequence_heads": Choice(choices=(1, 2, 4)),
    "shared_popularity_share": Range(low=0.0, high=1.0),
    "head_weight": Range(low=0.25, high=2.0, log=True),
    "user_dropout": Range(low=0.0, high=0.6),
}
DEFAULTS: Final[Mapping[str, Space]] = {
    "transformer": _SEQUENCES,
    "bert": {**_SEQUENCES, "mask_share": Range(low=0.15, high=0.6)},
    "attention": {
        **_EVERYWHERE,
        "num_blocks": Range(low=0, high=2),
        "num_heads": Choice(choices=(2, 4, 8)),
        "negatives": Choice(choices=(32, 64, 128, 256)),
        "popularity_share": Range(low=0.0, high=1.0),
        "return_weight": Range(low=1.0, high=20.0, log=True),
        "user_prior": Range(low=5.0, high=500.0, log=True),
    },
}


def default_space(settings: TrainingSettings) -> Space:
    """The space for the encoder of the settings."""
    return DEFAULTS[settings.encoder]


def read_space(path: Path, settings: TrainingSettings) -> Space:
    """A space from TOML: a table for each setting. Raises LongtailError that names what is wrong and allowed."""
    try:
        given = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LongtailError(f"--space {path} cannot be read as TOML: {error}") from error
    allowed = sorted(set(TrainingSettings.model_fields) - FIXED)
    if unknown := sorted(set(given) - set(allowed)):
        raise LongtailError(f"--space {path}: {', '.join(unknown)} cannot be varied; these can: {', '.join(allowed)}")
    if not given:
        raise LongtailError(f"--space {path} names no setting; {_EXAMPLE}")
    space = {name: _dimension(path, name, value) for name, value in given.items()}
    for name, dimension in space.items():
        _check(path, name, dimension, settings)
    return space


_EXAMPLE: Final = "write `dropout = { low = 0.0, high = 0.5 }` or `embedding_size = { choices = [32, 64] }`"


def _dimension(path: Path, name: str, value: Any) -> Dimension:
    try:
        return TypeAdapter[Dimension](Range if isinstance(value, dict) and "low" in value else Choice).validate_python(
            value
        )
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, row['loc']))} {row['msg']}".strip() for row in error.errors())
        raise LongtailError(f"--space {path}: {name} = {value!r}: {problems}; {_EXAMPLE}") from error


def _check(path: Path, name: str, dimension: Dimension, settings: TrainingSettings) -> None:
    """Every bound has to be a setting that `train` would take."""
    if isinstance(dimension, Range) and TrainingSettings.model_fields[name].annotation not in (int, float):
        raise LongtailError(f"--space {path}: {name} is no number; give it choices, such as {_EXAMPLE}")
    for value in dimension.bounds():
        try:
            TrainingSettings.model_validate(settings.model_dump() | {name: value}, strict=False)
        except ValidationError as error:
            raise LongtailError(f"--space {path}: {name} = {value!r}: {error.errors()[0]['msg']}") from error
