"""The models served here, and what a ModelSpec means among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.model_server.errors import invalid_argument, not_found
from serving.model_server.lifecycle import Model, Version


class Catalog:
    """Models by name."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models

    def find(self, request: Any) -> Version:
        """The AVAILABLE version that a request's ModelSpec names. Raises ServingError."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        spec = request.model_spec
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        number = self._number(spec)
        model = self._models.get(spec.name)
        available = model.available() if model else {}
        if number is not None:
            if number not in available:
                raise not_found(f"Servable not found for request: Specific({spec.name}, {number})")
            return available[number]
        if not available:
            raise not_found(f"Servable not found for request: Latest({spec.name})")
        return available[max(available)]

    def versions(self, request: Any) -> tuple[Version, ...]:
        """The versions, in any state, that a GetModelStatusRequest asks for. Raises ServingError."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        spec = request.model_spec
        model = self._models.get(spec.name)
        versions = model.versions() if model else ()
        if not spec.HasField("version"):
            if not versions:
                raise not_found(f"Could not find any versions of model {spec.name}")
            return versions
        for version in versions:
            if version.number == spec.version.value:
                return (version,)
        raise not_found(f"Could not find version {spec.version.value} of model {spec.name}")

    def _number(self, spec: Any) -> int | None:
        """The version that the spec asks for; None is the latest."""
        if spec.HasField("version"):
            return int(spec.version.value)
        if not spec.HasField("version_label"):
            return None
        model = self._models.get(spec.name)
        if model is None or spec.version_label not in model.labels:
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        return model.labels[spec.version_label]
