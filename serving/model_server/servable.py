"""A loaded model version, as the rest of the server needs it; `tensorflow_servable` is the adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from serving.model_server.signatures import Signature
from serving.model_server.tensors import Array


class Servable(Protocol):
    """One loaded version. `run` and `close` block: call them in a thread."""

    @property
    def signatures(self) -> Mapping[str, Signature]: ...

    @property
    def signature_defs(self) -> Mapping[str, Any]:
        """The SignatureDef messages, for GetModelMetadata."""

    def run(self, signature: Signature, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """The named outputs. Raises ServingError."""

    def close(self) -> None:
        """Frees the memory; nothing may run any more."""


Load = Callable[[Path], Servable]
"""Loads and warms up the version in a directory, blocking. Raises ServingError."""
