"""From the trained model to a SavedModel that TensorFlow Serving loads. Imports TensorFlow."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from feature_repo.errors import LongtailError
from longtail.tfserving import message_class
from training.artifact import TrainedModel
from training.blend.blend import Past
from training.blend.calibration import probability
from training.export import serving_contract
from training.export.served_model import served
from training.export.serving_graph import ServingGraph
from training.export.stored_tables import store, with_tables
from training.model import example_inputs
from training.network.compression import Compression
from training.vocabulary import FIRST_ROW, PADDING

TOLERANCE = 1e-5
WARMUP_BATCHES = (1, 2, 8, 32)


def export(
    model: TrainedModel,
    exports: Path,
    *,
    retrieve_k: int,
    candidate_buckets: tuple[int, ...],
    metrics: dict[str, Any],
    compression: Compression = "none",
    measured: TrainedModel | None = None,
) -> Path:
    """Writes exports/<version>, verified: reloaded, it scores as the trained model does. Replaces an earlier export.

    Compressed it scores as the trained model whose tables are what compression leaves of them. A model that was
    refitted on the whole log takes with it the one that was `measured`, for the gate of the next version.
    """
    draft = exports / f".{model.version}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    parts = {draft: model} | ({} if measured is None else {serving_contract.measured_path(draft): measured})
    for directory, part in parts.items():
        _write(
            part,
            directory,
            retrieve_k=retrieve_k,
            candidate_buckets=candidate_buckets,
            metrics=metrics,
            compression=compression,
        )
    _write_warmup(draft / serving_contract.ASSETS / serving_contract.WARMUP, model, candidate_buckets)
    final = exports / str(model.version)
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    return final


def _write(
    model: TrainedModel,
    directory: Path,
    *,
    retrieve_k: int,
    candidate_buckets: tuple[int, ...],
    metrics: dict[str, Any],
    compression: Compression,
) -> None:
    """The SavedModel and its contract, verified."""
    tables = store(model, compression)
    graph = ServingGraph(model, tables, retrieve_k=retrieve_k)
    signatures = graph.signatures()
    tf.saved_model.save(graph.state(signatures), str(directory), signatures=signatures)
    assets = directory / serving_contract.ASSETS
    assets.mkdir()
    described = {name: _describe(function) for name, function in signatures.items()}
    contract = serving_contract.make_contract(
        version=model.version,
        signatures=described,
        history_length=model.shape.history_length,
        candidate_buckets=candidate_buckets,
        retrieve_k=min(retrieve_k, len(model.item_ids)),
        embedding_size=model.shape.embedding_size,
        num_items=len(model.item_ids),
        window=(_iso(model.window_us[0]), _iso(model.window_us[1])),
        log_end=_iso(model.window_us[1] if model.log_end_us is None else model.log_end_us),
        missing_values=model.fill_values.as_json(),
        metrics=metrics,
        compression=compression,
        git_revision=_git_revision(),
    )
    (assets / serving_contract.CONTRACT).write_text(json.dumps(contract, indent=2))
    verify(model if compression == "none" else with_tables(model, tables), directory)


def verify(model: TrainedModel, directory: Path) -> None:
    """Raises LongtailError unless the SavedModel scores as the trained model does, δ and calibration included."""
    inputs, rows = sample_requests(model, batch=8, candidates=32, seed=1)
    with served(directory) as loaded:
        scores = loaded.ask("rank", inputs)["scores"]
    worst = float(np.abs(scores - _trained_scores(model, rows, inputs)).max())
    if not worst <= TOLERANCE:
        raise LongtailError(
            f"the exported model differs from the trained one by {worst:.2g}, allowed is {TOLERANCE:g}; "
            "nothing was exported: this is a defect of the export, please report it"
        )


def _trained_scores(model: TrainedModel, rows: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> np.ndarray:
    recommender = model.recommender
    user = recommender.encode(rows)
    items = rows["candidate_items"]
    vectors, weights = recommender.items(items), inputs["user_weights"]
    logits = recommender.logits(user, recommender.bias(items), vectors, model.popularity[items], user_weights=weights)
    past = Past(items=rows["history_items"], age_s=rows["history_age_s"])
    head = np.zeros((len(items), len(model.popularity)), np.float32)
    np.put_along_axis(head, items, np.asarray(logits["rank"]), axis=1)
    everything = np.broadcast_to(np.arange(head.shape[1]), head.shape)
    dots = np.asarray(
        recommender.retrieve_logits(user, everything, recommender.items(everything), model.popularity[everything])
    )
    popularity = np.broadcast_to(model.blend.popularity, (len(items), *model.blend.popularity.shape))
    log_odds = model.blend.logits(model.blend.rank, past, popularity, dots=dots, head=head)
    return np.where(items == PADDING, 0.0, probability(np.take_along_axis(log_odds, items, axis=1), 1.0, 0.0))


def sample_requests(
    model: TrainedModel, *, batch: int, candidates: int, seed: int, is_full: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Random requests as string inputs of the signatures, and the same as rows of the model.

    Histories of every length from none to full, or full ones; some missing features, some candidates unknown or
    padding.
    """
    rng = np.random.default_rng(seed)
    length = model.shape.history_length
    rows = example_inputs(model.shape, batch=batch, candidates=candidates)
    kept = np.linspace(length if is_full else 0, length, batch).astype(int)
    is_item = np.arange(length) < kept[:, None]
    last = FIRST_ROW + len(model.item_ids)
    rows["history_items"] = np.where(is_item, rng.integers(1, last, (batch, length)), PADDING).astype(np.int32)
    types = rng.integers(1, FIRST_ROW + len(model.event_types), (batch, length))
    rows["history_types"] = np.where(is_item, types, PADDING).astype(np.int32)
    rows["history_age_s"] = np.where(is_item, rng.exponential(1e6, (batch, length)), 0.0).astype(np.float32)
    features = rng.exponential(3.0, rows["user_features"].shape)
    rows["user_features"] = np.where(rng.random(features.shape) < 0.2, np.nan, features).astype(np.float32)
    rows["candidate_items"] = rng.integers(0, last, (batch, candidates)).astype(np.int32)
    item_ids = np.array(["", "never seen in training", *model.item_ids], dtype=object)
    type_ids = np.array(["", "never_seen_in_training", *model.event_types], dtype=object)
    weights = rng.normal(0.0, 0.1, (batch, model.shape.embedding_size + 1)).astype(np.float32)
    inputs = {
        "history_item_ids": item_ids[rows["history_items"]],
        "history_event_types": type_ids[rows["history_types"]],
        "history_age_s": rows["history_age_s"],
        "user_features": rows["user_features"],
        "user_weights": weights,
        "user_weights_version": np.full(batch, model.version, np.int64),
        "candidate_item_ids": item_ids[rows["candidate_items"]],
    }
    return inputs, rows


def _write_warmup(path: Path, model: TrainedModel, candidate_buckets: tuple[int, ...]) -> None:
    """One request for each signature, batch size and, for `rank`, number of candidates."""
    prediction_log = message_class("tensorflow.serving.PredictionLog")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch in WARMUP_BATCHES:
            for bucket in candidate_buckets:
                inputs, _ = sample_requests(model, batch=batch, candidates=bucket, seed=2)
                users = {name: value for name, value in inputs.items() if name != "candidate_item_ids"}
                requests = (
                    {"rank": inputs}
                    if bucket != candidate_buckets[0]
                    else dict.fromkeys(("retrieve", "encode_user"), users) | {"serving_default": inputs, "rank": inputs}
                )
                for signature, values in requests.items():
                    record = prediction_log()
                    request = record.predict_log.request
                    request.model_spec.name = serving_contract.MODEL_NAME
                    request.model_spec.signature_name = signature
                    for alias, value in values.items():
                        request.inputs[alias].ParseFromString(tf.make_tensor_proto(value).SerializeToString())
                    writer.write(record.SerializeToString())


def _describe(function: Any) -> dict[str, dict[str, Any]]:
    specs = function.structured_input_signature[1]  # every argument is by name
    return {
        "inputs": {alias: _tensor_info(spec) for alias, spec in sorted(specs.items())},
        "outputs": {alias: _tensor_info(spec) for alias, spec in sorted(function.structured_outputs.items())},
    }


def _tensor_info(spec: Any) -> dict[str, Any]:
    shape = [-1 if size is None else int(size) for size in spec.shape]
    return {
        "dtype": f"DT_{ {'float32': 'FLOAT', 'string': 'STRING', 'int64': 'INT64'}[spec.dtype.name] }",
        "shape": shape,
    }


def _iso(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()


def _git_revision() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
