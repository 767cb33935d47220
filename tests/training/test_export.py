"""The SavedModel: what TensorFlow Serving and the gateway rely on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from feature_repo.contract import HISTORY_LENGTH, MODEL_USER_FEATURES
from longtail.tfserving import message_class
from tests.training.conftest import SMALL, VERSION, Trained
from training import artifact
from training.export.served_model import served
from training.settings import TrainingSettings

WIDTH = SMALL.embedding_size
USER_INPUTS = {
    "history_item_ids": (tf.string, [None, HISTORY_LENGTH]),
    "history_event_types": (tf.string, [None, HISTORY_LENGTH]),
    "history_age_s": (tf.float32, [None, HISTORY_LENGTH]),
    "user_features": (tf.float32, [None, len(MODEL_USER_FEATURES)]),
    "user_weights": (tf.float32, [None, WIDTH + 1]),
    "user_weights_version": (tf.int64, [None]),
}
Rank = Callable[..., np.ndarray]


@pytest.mark.parametrize("buckets", [(), (0,), (-3, 16)])
def test_numbers_of_candidates_that_nobody_can_ask_are_refused(buckets: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="candidate_buckets"):
        TrainingSettings(candidate_buckets=buckets)


@pytest.fixture(scope="module")
def signatures(trained: Trained) -> Any:
    loaded = tf.saved_model.load(str(trained.exported))
    yield loaded.signatures
    del loaded  # the signatures' variables live as long as this


def user(history: list[str], *, users: int = 1, **replaced: np.ndarray) -> dict[str, Any]:
    padded = history + [""] * (HISTORY_LENGTH - len(history))
    types = ["view"] * len(history) + [""] * (HISTORY_LENGTH - len(history))
    inputs: dict[str, Any] = {
        "history_item_ids": np.array([padded] * users, object),
        "history_event_types": np.array([types] * users, object),
        "history_age_s": np.full((users, HISTORY_LENGTH), 3600, np.float32),
        "user_features": np.full((users, len(MODEL_USER_FEATURES)), np.nan, np.float32),
        "user_weights": np.zeros((users, WIDTH + 1), np.float32),
        "user_weights_version": np.full(users, VERSION, np.int64),
    }
    return {**inputs, **replaced}


@pytest.fixture(scope="module")
def rank(signatures: Any) -> Rank:
    def ask(candidates: list[str], inputs: dict[str, Any]) -> np.ndarray:
        asked = {name: tf.constant(value) for name, value in inputs.items()}
        rows = tf.constant([candidates] * len(inputs["user_weights"]))
        scores: np.ndarray = signatures["rank"](**asked, candidate_item_ids=rows)["scores"].numpy()
        return scores

    return ask


LIKES_0 = [f"item-0-{number}" for number in range(5)]


def test_the_signatures_are_those_of_the_contract(signatures: Any) -> None:
    assert set(signatures) == {"serving_default", "rank", "retrieve", "encode_user"}
    for name in signatures:
        given = {alias: (spec.dtype, spec.shape.as_list()) for alias, spec in _inputs(signatures[name]).items()}
        candidates = {"candidate_item_ids": (tf.string, [None, None])} if name in ("rank", "serving_default") else {}
        assert given == USER_INPUTS | candidates
        assert all(spec.shape.rank and spec.shape[0] is None for spec in signatures[name].structured_outputs.values())


def _inputs(function: Any) -> dict[str, Any]:
    inputs: dict[str, Any] = function.structured_input_signature[1]
    return inputs


def test_scores_are_probabilities_and_padding_scores_zero(rank: Rank) -> None:
    scores = rank(["item-0-6", "", "item-1-1"], user(LIKES_0))[0]
    assert scores[1] == 0
    assert 0 < scores[0] < 1
    assert 0 < scores[2] < 1


def test_a_score_does_not_depend_on_the_other_candidates(rank: Rank) -> None:
    alone = rank(["item-0-6"], user(LIKES_0))[0, 0]
    among = rank(["item-3-1", "item-0-6", "", "never seen", "item-0-6"], user(LIKES_0))[0]
    np.testing.assert_allclose([among[1], among[4]], alone, atol=1e-6)


def test_a_score_does_not_depend_on_the_other_users(rank: Rank) -> None:
    one = rank(["item-0-6"], user(LIKES_0))[0, 0]
    batch = user(LIKES_0, users=3)
    batch["history_item_ids"][1:] = ""
    np.testing.assert_allclose(rank(["item-0-6"], batch)[0, 0], one, atol=1e-6)


def test_what_is_unknown_or_missing_is_a_normal_input(rank: Rank) -> None:
    for history in ([], ["never seen"], LIKES_0):
        scores = rank(["never seen", "item-2-2"], user(history))
        assert np.isfinite(scores).all()
    full = np.zeros((1, len(MODEL_USER_FEATURES)), np.float32)
    assert np.isfinite(rank(["item-2-2"], user([], user_features=full))).all()


def test_the_history_decides_what_is_relevant(rank: Rank) -> None:
    own, other = rank(["item-0-7", "item-2-7"], user(LIKES_0))[0]
    assert own > other


def test_own_weights_count_only_with_the_version_of_the_model(rank: Rank) -> None:
    candidates = ["item-0-7", "item-2-7"]
    weights = np.random.default_rng(0).normal(size=(1, WIDTH + 1)).astype(np.float32)
    none = rank(candidates, user(LIKES_0))
    own = rank(candidates, user(LIKES_0, user_weights=weights))
    stale = rank(candidates, user(LIKES_0, user_weights=weights, user_weights_version=np.array([VERSION - 1])))
    assert np.abs(own - none).max() > 1e-3
    np.testing.assert_array_equal(stale, none)


def test_weights_that_are_no_numbers_of_another_version_do_no_harm(rank: Rank) -> None:
    broken = np.full((1, WIDTH + 1), np.nan, np.float32)
    scores = rank(["item-0-7"], user(LIKES_0, user_weights=broken, user_weights_version=np.array([1])))
    assert np.isfinite(scores).all()


def test_retrieve_gives_the_best_of_the_catalogue_without_the_history(signatures: Any, trained: Trained) -> None:
    usual = np.asarray(trained.model.recommender.encoder.normalise.mean, np.float32)  # features as in training
    inputs = user(LIKES_0, users=2, user_features=np.stack([usual, usual]))
    asked = {name: tf.constant(value) for name, value in inputs.items()}
    answer = signatures["retrieve"](**asked)
    items = [item.decode() for item in answer["item_ids"].numpy()[0]]
    scores = answer["scores"].numpy()[0]
    assert len(items) == len(set(items)) == SMALL.retrieve_k
    assert not set(items) & set(LIKES_0)
    assert list(scores) == sorted(scores, reverse=True)
    assert sum(item.startswith("item-0-") for item in items[:5]) >= 4


def test_a_user_embedding_has_the_width_of_the_contract(signatures: Any) -> None:
    asked = {name: tf.constant(value) for name, value in user([], users=3).items()}
    assert signatures["encode_user"](**asked)["embedding"].shape == (3, WIDTH)


def test_each_warm_up_record_runs(trained: Trained, signatures: Any) -> None:
    path = trained.exported / "assets.extra/tf_serving_warmup_requests"
    names = set()
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = message_class("tensorflow.serving.PredictionLog").FromString(record).predict_log.request
        inputs = {name: _tensor(value) for name, value in request.inputs.items()}
        assert signatures[request.model_spec.signature_name](**inputs)
        names.add(request.model_spec.signature_name)
    assert names == set(signatures)


def _tensor(value: Any) -> Any:
    proto = tf.make_tensor_proto(0)
    proto.ParseFromString(value.SerializeToString())
    return tf.constant(tf.make_ndarray(proto))


def test_the_contract_says_what_the_graph_does(trained: Trained, signatures: Any) -> None:
    contract = json.loads((trained.exported / "assets.extra/contract.json").read_text())
    assert contract["model_version"] == VERSION
    assert contract["user_features"] == list(MODEL_USER_FEATURES)
    assert contract["embedding_size"] == WIDTH
    assert contract["candidate_buckets"] == [4, 16]
    assert set(contract["signatures"]) == set(signatures)
    assert contract["signatures"]["rank"]["inputs"]["candidate_item_ids"] == {"dtype": "DT_STRING", "shape": [-1, -1]}


def test_a_session_scores_as_python_does(trained: Trained, rank: Rank) -> None:
    """TensorFlow Serving loads into a session; Python's loader hides variables that only it finds."""
    inputs = user(LIKES_0)
    candidates = ["item-0-7", "item-2-7"]
    with served(trained.exported) as loaded:
        scores = loaded.ask("rank", {**inputs, "candidate_item_ids": np.array([candidates], object)})["scores"]
    np.testing.assert_allclose(scores, rank(candidates, inputs), atol=1e-6)


def test_a_saved_model_comes_back_the_same(trained: Trained, tmp_path: Path) -> None:
    model = artifact.load(trained.folder / "training" / "model")
    rng = np.random.default_rng(0)
    for variable in model.recommender.trainable_variables:  # weights that were never in a file
        variable.assign(rng.normal(size=variable.shape))
    artifact.settle_nobody(model.recommender)
    artifact.save(model, tmp_path / "model")
    loaded = artifact.load(tmp_path / "model")
    assert loaded.version == VERSION
    for kept, original in zip(loaded.recommender.get_weights(), model.recommender.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, original)
