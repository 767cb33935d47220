"""TensorFlow Serving's --model_config_file: which versions of our model it loads, and what it calls them.

A label stands only for a version that is loaded, so a new one takes two writes: `with_version`, and `with_label` once
the server says AVAILABLE. Other models in the file stay as they are.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format

from feature_repo.errors import LongtailError
from longtail.tfserving import message_class

STABLE: Final = "stable"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The part of the file that is ours."""

    path: Path
    model: str
    base_path: Path

    def labels(self) -> dict[str, int]:
        """Version by label; empty when there is no file yet. Raises LongtailError for a file that cannot be read."""
        return dict(_ours(self._read(), self.model).version_labels)

    def with_version(self, version: int) -> None:
        """Loads this version too, beside those that have labels."""
        self._write({**self.labels()}, extra=version)

    def with_label(self, label: str, version: int) -> None:
        """Calls this version so, and loads no version without a label. Stable takes over from whatever it was."""
        kept = {name: number for name, number in self.labels().items() if label != STABLE or number != version}
        self._write({**kept, label: version})

    def without_label(self, label: str) -> None:
        """Raises LongtailError for a label that is not there, and for stable: something has to answer."""
        labels = self.labels()
        if label == STABLE:
            raise LongtailError(f"{STABLE} cannot be taken away; give it to another version")
        if label not in labels:
            raise LongtailError(f"{self.path} has no label {label!r}; it has {', '.join(sorted(labels)) or 'none'}")
        self._write({name: number for name, number in labels.items() if name != label})

    def _read(self) -> Any:
        config = message_class("tensorflow.serving.ModelServerConfig")()
        if not self.path.exists():
            return config
        try:
            text_format.Parse(self.path.read_text(), config)
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            raise LongtailError(f"{self.path} is no model config file: {error}") from error
        if config.WhichOneof("config") == "custom_model_config":
            raise LongtailError(f"{self.path} has a custom_model_config; longtail writes model_config_list only")
        return config

    def _write(self, labels: dict[str, int], *, extra: int | None = None) -> None:
        config = self._read()
        ours = _ours(config, self.model)
        ours.base_path, ours.model_platform = str(self.base_path.absolute()), "tensorflow"
        ours.version_labels.clear()
        ours.version_labels.update(labels)
        wanted = {*labels.values(), *(() if extra is None else (extra,))}
        ours.model_version_policy.specific.versions[:] = sorted(wanted)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
        try:
            draft.write_text(text_format.MessageToString(config))
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)


def _ours(config: Any, model: str) -> Any:
    """The entry of our model, added when it is not there."""
    for one in config.model_config_list.config:
        if one.name == model:
            return one
    return config.model_config_list.config.add(name=model)
