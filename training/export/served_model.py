"""A SavedModel in a session, as TensorFlow Serving holds it. Imports TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


class ServedModel:
    """Answers signatures; Python's own loader hides variables and tables that only it finds."""

    def __init__(self, session: Any, signatures: Mapping[str, Any]) -> None:
        self._session = session
        self._signatures = signatures

    def ask(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output of a signature; inputs that it does not have are left out."""
        asked = self._signatures[signature]
        feed = {tensor.name: inputs[alias] for alias, tensor in asked.inputs.items()}
        outputs: dict[str, np.ndarray] = self._session.run(
            {alias: tensor.name for alias, tensor in asked.outputs.items()}, feed
        )
        return outputs


def one_pool_each() -> None:
    """Sessions made from now on have the threads they ask for; else all share those of the first, or of eager code."""
    os.environ["TF_OVERRIDE_GLOBAL_THREADPOOL"] = "1"


@contextmanager
def served(directory: Path, *, threads: int = 0) -> Iterator[ServedModel]:
    """The model, loaded; `threads` for an operation and as many operations at once, 0 leaves both to TensorFlow."""
    if threads:
        one_pool_each()
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads)
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=config)
    try:
        with graph.as_default():  # no longer than this: whoever holds the model may go on eagerly
            loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(directory))
        yield ServedModel(session, loaded.signature_def)
    finally:
        session.close()
