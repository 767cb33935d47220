"""Measures an exported model as TensorFlow Serving runs it: a session on one thread, full histories, no jit_compile.

    python -m training.inference_benchmark exports/20260101000000 [--candidates 200] [--rounds 200]

Items and types are those of the export's own warm-up requests. Prints TensorFlow's time per request and per user.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import typer

from longtail.tfserving import message_class
from training import serving_contract

BATCHES = (1, 32)
LIMITS_MS = {1: 1.0, 32: 0.4}  # for one user of such a batch


def measure(directory: Path, *, candidates: int, rounds: int) -> dict[tuple[str, int], np.ndarray]:
    """Milliseconds of each round by signature and batch."""
    contract = serving_contract.read_contract(directory)
    item_ids, type_ids = _ids(directory)
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    measured = {}
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], str(directory)).signature_def
        for name, output in (("rank", "scores"), ("retrieve", "item_ids"), ("encode_user", "embedding")):
            signature = signatures[name]
            for batch in BATCHES:
                inputs = _inputs(contract, item_ids, type_ids, batch=batch, candidates=candidates)
                feed = {spec.name: inputs[alias] for alias, spec in signature.inputs.items()}
                call = session.make_callable(signature.outputs[output].name, list(feed))
                measured[name, batch] = np.array([_timed(call, list(feed.values())) for _ in range(rounds + 10)])[10:]
    return measured


def _timed(call: Any, values: list[np.ndarray]) -> float:
    began = time.perf_counter()
    call(*values)
    return (time.perf_counter() - began) * 1e3


def _ids(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Item and type ids that the model knows, from its warm-up requests."""
    items: set[bytes] = set()
    types: set[bytes] = set()
    for raw in tf.data.TFRecordDataset(str(directory / serving_contract.ASSETS / serving_contract.WARMUP)):
        record = message_class("tensorflow.serving.PredictionLog")()
        record.ParseFromString(raw.numpy())
        inputs = record.predict_log.request.inputs
        if "candidate_item_ids" in inputs:
            items.update(inputs["candidate_item_ids"].string_val)
        types.update(inputs["history_event_types"].string_val)
    return np.array(sorted(items - {b""}), object), np.array(sorted(types - {b""}), object)


def _inputs(
    contract: serving_contract.Contract, item_ids: np.ndarray, type_ids: np.ndarray, *, batch: int, candidates: int
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    history = (batch, contract["history_length"])
    return {
        "history_item_ids": rng.choice(item_ids, history),
        "history_event_types": rng.choice(type_ids, history),
        "history_age_s": np.sort(rng.exponential(1e6, history), axis=1).astype(np.float32),
        "user_features": rng.exponential(3.0, (batch, len(contract["user_features"]))).astype(np.float32),
        "user_weights": rng.normal(0.0, 0.1, (batch, contract["embedding_size"] + 1)).astype(np.float32),
        "user_weights_version": np.full(batch, contract["model_version"], np.int64),
        "candidate_item_ids": rng.choice(item_ids, (batch, candidates)),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m training.inference_benchmark", description=__doc__)
    parser.add_argument("directory", type=Path, help="An exported or published version.")
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    typer.echo(f"{'signature':12s} {'users':>5s} {'median ms':>9s} {'least ms':>8s} {'ms a user':>9s}  limit")
    for (name, batch), took in measure(given.directory, candidates=given.candidates, rounds=given.rounds).items():
        median = float(np.median(took))
        limit = f"{LIMITS_MS[batch]:g}" if name == "rank" else ""
        typer.echo(f"{name:12s} {batch:5d} {median:9.3f} {took.min():8.3f} {median / batch:9.3f}  {limit}")


if __name__ == "__main__":
    main()
