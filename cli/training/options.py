"""What the commands of training share: options, settings, how they show their progress."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.settings import Settings

if TYPE_CHECKING:
    from training.fitting.progress import Progress
    from training.settings import TrainingSettings


class CompressionOption(StrEnum):
    """How an export keeps its large tables."""

    NONE = "none"
    FLOAT16 = "float16"
    INT8 = "int8"
    PQ = "pq"


CompressOption = Annotated[
    CompressionOption | None,
    typer.Option("--compress", help="How the large tables are kept. Default: training.compression."),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="A TOML file of [training] settings; it wins over longtail.toml.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of an interrupted run.")]


def chosen_settings(context: typer.Context, config: Path | None) -> tuple[Settings, TrainingSettings]:
    """All settings, and those of training with the file put over them."""
    from training.fitting.config_file import with_file

    settings: Settings = context.obj
    return settings, settings.training if config is None else with_file(settings.training, config)


def quiet() -> None:
    """Imports TensorFlow without its start-up lines: they go to descriptor 2 whatever its log settings say.

    Nor do its advices of deprecation interest who trains: a session is how the real server loads a model.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        importlib.import_module("keras")
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def shown_progress(settings: TrainingSettings, run: str) -> Iterator[Progress]:
    """A context in which a run shows what it does, here and to the trackers that the settings name."""
    from cli.training.progress import shown
    from training.fitting.tracking import tracked, trackers_of

    def on_trouble(what: str) -> None:
        typer.echo(f"note: {what}; training goes on", err=True)

    with shown() as progress, tracked(trackers_of(settings, run), progress, on_trouble=on_trouble) as told:
        yield told


def cell(value: dict[str, float | None]) -> str:
    """A mean and its error, in a table."""
    mean, error = value["mean"], value["error"]
    return "–" if mean is None else f"{mean:.3f}" + ("" if error is None else f" ±{error:.3f}")
