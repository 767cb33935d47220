"""The graph that answers: what it leaves out, what it knows beforehand, and that it answers the same all the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from feature_repo.contract import HISTORY_LENGTH
from tests.training.conftest import Trained
from tests.training.test_export import LIKES_0, user
from training.benchmarks import inference as inference_benchmark
from training.benchmarks.inference import Case, measure, vocabulary
from training.export.served_model import served
from training.network.blocks import CandidateAttention
from training.network.shape import ModelShape

BATCH, CANDIDATES, TOKENS, WIDTH = 3, 5, 4, 8


@pytest.mark.parametrize("size", [1.0, 10.0])
def test_a_candidate_attends_to_itself_and_to_the_history(size: float) -> None:
    """As a softmax says, of logits so far apart, too, that one token has all the weight."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    shape = ModelShape(num_users=1, num_items=1, embedding_size=WIDTH, num_heads=2)
    layer = CandidateAttention(shape)
    candidates = rng.normal(size=(BATCH, CANDIDATES, WIDTH)).astype(np.float32)
    history = rng.normal(size=(BATCH, TOKENS, WIDTH)).astype(np.float32)
    is_token = np.arange(TOKENS) < np.array([[1], [2], [4]])
    weights = rng.normal(size=(BATCH, WIDTH)).astype(np.float32)
    layer(candidates, history, is_token, weights)
    layer.query.kernel.assign(size * layer.query.kernel)
    attended = np.asarray(layer(candidates, history, is_token, weights))
    layer.query.kernel.assign(1e4 * layer.query.kernel)
    assert np.isfinite(np.asarray(layer(candidates, history, is_token, weights))).all()
    layer.query.kernel.assign(1e-4 * layer.query.kernel)

    normed, seen = np.asarray(layer.norm(candidates)), np.asarray(layer.output_projection)
    expected = np.zeros((BATCH, CANDIDATES))
    for head in range(2):
        own = slice(4 * head, 4 * head + 4)
        query = np.asarray(layer.query(normed))[..., own] / 2.0
        for row in range(BATCH):
            for place in range(CANDIDATES):
                tokens = np.concatenate([normed[row, place][None], history[row, : is_token[row].sum()]])
                logits = np.asarray(layer.key(tokens))[:, own] @ query[row, place]
                share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
                expected[row, place] += share @ np.asarray(layer.value(tokens))[:, own] @ seen[own] @ weights[row]
    np.testing.assert_allclose(attended, expected, rtol=1e-3, atol=1e-3)


def test_what_is_known_of_items_beforehand_is_what_the_head_would_make_of_them() -> None:
    rng = np.random.default_rng(1)
    layer = CandidateAttention(ModelShape(num_users=1, num_items=1, embedding_size=WIDTH, num_heads=2))
    table = rng.normal(size=(9, WIDTH)).astype(np.float32)
    rows = rng.integers(0, 9, (BATCH, CANDIDATES))
    history = rng.normal(size=(BATCH, TOKENS, WIDTH)).astype(np.float32)
    rest = history, np.ones((BATCH, TOKENS), bool), rng.normal(size=(BATCH, WIDTH)).astype(np.float32)
    asked = layer(table[rows], *rest)
    known = tuple(ops.take(each, rows, axis=1) for each in layer.of_items(table))
    np.testing.assert_allclose(layer(None, *rest, known=known), asked, rtol=1e-4, atol=1e-5)


def test_users_of_any_past_are_answered_together_as_alone(trained: Trained) -> None:
    full = [f"item-{number % 4}-{number % 20}" for number in range(HISTORY_LENGTH)]
    asked = [user(history) for history in ([], ["never seen"], LIKES_0, full)]
    together = {name: np.concatenate([each[name] for each in asked]) for name in asked[0]}
    candidates = np.array([["item-0-7", "", "item-2-7", "item-2-7"]], object)
    with served(trained.exported) as loaded:
        alone = [loaded.ask("rank", each | {"candidate_item_ids": candidates})["scores"] for each in asked]
        every = loaded.ask("rank", together | {"candidate_item_ids": np.repeat(candidates, 4, axis=0)})["scores"]
        found = loaded.ask("retrieve", together)["scores"]
        found_alone = [loaded.ask("retrieve", each)["scores"] for each in asked]
    np.testing.assert_allclose(every, np.concatenate(alone), atol=1e-6)
    np.testing.assert_allclose(found, np.concatenate(found_alone), atol=1e-6)
    assert len(np.unique(every[:, 0].round(4))) == 4  # they differ: the past is read


def test_only_what_grows_with_the_catalogue_is_a_variable(trained: Trained) -> None:
    """The rest is constant, so that what depends on it alone is computed when the model is loaded."""
    listed = tf.train.list_variables(str(trained.exported / "variables/variables"))
    shapes = [shape for name, shape in listed if name.endswith("VARIABLE_VALUE")]
    assert shapes
    assert all(shape[0] == 80 + 2 for shape in shapes)


def test_the_benchmark_asks_what_it_says_and_shows_the_models_beside_each_other(
    trained: Trained, tmp_path: Path
) -> None:
    known = vocabulary(trained.exported)
    assert set(known.items) <= {*trained.model.item_ids, "never seen in training"}
    case = Case(signature="rank", users=2, history=3, candidates=7)
    request = known.request(case, seed=0)
    assert ((request["history_item_ids"] != "").sum(axis=1) == 3).all()
    assert ((request["candidate_item_ids"] != "").sum(axis=1) == 7).all()
    copy = shutil.copytree(trained.exported, tmp_path / "copy")
    took = measure([trained.exported, copy], case, rounds=1)
    assert [each.model for each in took] == [str(trained.exported), str(copy)]
    assert all(each.median_ms > 0 for each in took)
    kinds = {operation.kind for operation in took[0].operations}
    assert {"LookupTableFindV2", "Sigmoid"} <= kinds  # from the ids to the scores
    assert all(each.model in inference_benchmark.table(took) for each in took)
    assert "Sigmoid" in inference_benchmark.slowest(took[0])
