"""The adapter to TensorFlow: loads a SavedModel the way the real server does, into a session of its own.

A session, not `tf.saved_model.load`: it feeds and fetches the tensors that the signature names, runs the graph's
init op, computes only the outputs asked for, and gives all memory back when closed.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from longtail.tfserving import message_class
from serving.model_server.errors import ServingError, not_found, status_code
from serving.model_server.servable import Load, Servable
from serving.model_server.signatures import Signature, signatures_of
from serving.model_server.tensors import Array
from serving.model_server.warmup import warm_up
from serving.model_server.xla import needs_xla

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@contextlib.contextmanager
def _without_import_noise() -> Iterator[None]:
    """TensorFlow's C++ start-up lines ignore every log setting; they go to file descriptor 2."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


with _without_import_noise():
    import tensorflow as tf
    from tensorflow.core.protobuf.config_pb2 import CallableOptions

logging.getLogger("tensorflow").setLevel(logging.ERROR)

SignatureDef = message_class("tensorflow.SignatureDef")


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How TensorFlow runs. `inter_op_threads` −1 runs every operation in the caller's thread."""

    tags: tuple[str, ...] = ("serve",)
    intra_op_threads: int = 1
    inter_op_threads: int = -1


class TensorFlowServable:
    """A SavedModel in a session."""

    def __init__(self, session: Any, meta_graph: Any) -> None:
        self._session = session
        definitions = meta_graph.signature_def
        self.signature_defs: Mapping[str, Any] = {
            name: SignatureDef.FromString(definitions[name].SerializeToString()) for name in sorted(definitions)
        }
        self.signatures: Mapping[str, Signature] = signatures_of(self.signature_defs)
        tensor_names = {slot.tensor_name for signature in self.signatures.values() for slot in signature.outputs}
        self._compiled_by_xla = frozenset(n for n in tensor_names if needs_xla(meta_graph.graph_def, [n]))
        self._callable = lru_cache(maxsize=256)(self._make_callable)

    def run(self, signature: Signature, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """The named outputs. Raises ServingError."""
        fetches = signature.tensor_names(outputs)
        if not self._compiled_by_xla.isdisjoint(fetches):
            raise ServingError(
                grpc.StatusCode.INTERNAL,
                f"XLA compilation disabled: signature {signature.name} was exported with jit_compile=True; "
                "export it without",
            )
        with _tensorflow_errors():
            run = self._callable(tuple(slot.tensor_name for slot in signature.inputs), fetches)
            results = run(*(inputs[slot.alias] for slot in signature.inputs))
        return {alias: _array(result) for alias, result in zip(outputs, results, strict=True)}

    def close(self) -> None:
        """Frees the session and all that it holds."""
        self._callable.cache_clear()
        self._session.close()

    def _make_callable(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Callable[..., list[Any]]:
        # As the real server runs: types are checked, shapes are not. `Session.run` would check them, and is slower.
        options = CallableOptions(feed=feeds, fetch=fetches)
        run: Callable[..., list[Any]] = self._session._make_callable_from_options(options)
        return run


def _array(result: Any) -> Array:
    if isinstance(result, bytes):  # a scalar string; numpy would give it a type of its own
        array = np.empty((), np.object_)
        array[()] = result
        return array
    return np.asarray(result)


def load_saved_model(directory: Path, options: SessionOptions) -> Servable:
    """Loads the SavedModel in the directory. Raises ServingError that says what is wrong with it."""
    if not any((directory / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise not_found(
            f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {directory}. Check that the "
            "directory exists and that you have the right permissions for accessing it. Write a version elsewhere "
            "and rename it into place, so that it is never seen half-written."
        )
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=options.intra_op_threads, inter_op_parallelism_threads=options.inter_op_threads
    )
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    try:
        with session.graph.as_default(), _tensorflow_errors(f"Loading SavedModel {directory}: "):
            return TensorFlowServable(session, tf.compat.v1.saved_model.load(session, options.tags, str(directory)))
    except ServingError:
        session.close()
        raise


def loader(options: SessionOptions, *, warmup_iterations: int = 1) -> Load:
    """Loads a version and runs its warm-up records, if at all; a version that fails leaves nothing behind."""

    def load(directory: Path) -> Servable:
        servable = load_saved_model(directory, options)
        try:
            if warmup_iterations:
                warm_up(servable, directory, read_records, iterations=warmup_iterations)
        except BaseException:
            servable.close()
            raise
        return servable

    return load


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file. Raises ServingError, DATA_LOSS where the file is none."""
    with _tensorflow_errors():
        yield from tf.data.TFRecordDataset(str(path)).as_numpy_iterator()


@contextlib.contextmanager
def _tensorflow_errors(prefix: str = "") -> Iterator[None]:
    """TensorFlow's exceptions as ours: its own codes where it has one, else what the real server would answer."""
    try:
        yield
    except ServingError:
        raise
    except tf.errors.OpError as error:
        raise ServingError(status_code(error.error_code), f"{prefix}{error.message}") from error
    except OSError as error:
        raise ServingError(grpc.StatusCode.DATA_LOSS, f"{prefix}{error}") from error
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, f"{prefix}{error}") from error
