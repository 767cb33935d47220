"""Tells TensorBoard: event files with a scalar per epoch, the settings as text. Needs TensorFlow alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.fitting.progress import Epoch
from training.fitting.tracking import TrackerError


class TensorBoardTracker:
    """One run is one folder; what a page shows as `search/loss` is the loss of the phase `search`."""

    def __init__(self, directory: Path, settings: Mapping[str, Any]) -> None:
        self._directory = directory
        with self._told():
            import tensorflow as tf

            self._tf = tf
            self._writer = tf.summary.create_file_writer(str(directory))
            self._write("settings", tf.constant(_as_markdown(settings)), 0, plugin="text")

    def epoch(self, phase: str, epoch: Epoch) -> None:
        with self._told():
            for name, value in epoch.measured().items():
                self._write(f"{phase}/{name}", self._tf.constant(value, self._tf.float32), epoch.epoch)
            self._writer.flush()

    def end(self, *, succeeded: bool) -> None:
        with self._told():
            self._writer.close()

    def _write(self, tag: str, value: Any, step: int, *, plugin: str = "scalars") -> None:
        kind = self._tf.compat.v1.SummaryMetadata(
            plugin_data=self._tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin)
        )
        with self._writer.as_default():
            self._tf.summary.write(tag, value, step=step, metadata=kind)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a library raises must not stop a run
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TrackerError(f"{self._directory} cannot be written ({why}); see training.tensorboard_dir") from error


def _as_markdown(settings: Mapping[str, Any]) -> str:
    return "\n".join(["| setting | value |", "|---|---|", *(f"| {k} | {json.dumps(v)} |" for k, v in settings.items())])
