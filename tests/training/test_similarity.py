"""The classic recommenders beside the model, on answers that can be computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from training.blend import similarity
from training.blend.evidence import history_weights
from training.blend.similarity import Discoveries, discoveries
from training.evaluation.asking import top_items
from training.examples.attributes import item_vectors
from training.examples.moments import moments_at
from training.examples.split import Question
from training.log.engagements import from_rows
from training.vocabulary import FIRST_ROW

A, B, C, D = (FIRST_ROW + code for code in range(4))  # rows of the items a, b, c, d
LOG = from_rows(
    [(user, item, "view", at) for user in "uvwx" for at, item in enumerate("abac" if user != "x" else "ad", 1)]
)


@pytest.fixture
def met() -> Discoveries:
    return discoveries(LOG, np.arange(4, dtype=np.int32) + FIRST_ROW, FIRST_ROW + 4)


def dense(matrix: similarity.Matrix) -> np.ndarray:
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def test_a_discovery_is_an_items_first_meeting(met: Discoveries) -> None:
    assert met.row.tolist() == [A, B, C] * 3 + [A, D]
    assert met.before.tolist() == [0, 1, 2] * 3 + [0, 1]


def test_item_knn_is_the_shrunk_cosine_of_the_users(met: Discoveries) -> None:
    found = dense(similarity.item_knn(met))
    assert found[A, B] == pytest.approx(3 / (np.sqrt(4 * 3) + similarity.SHRINKAGE))
    assert found[B, D] == 0
    assert not found.diagonal().any()


def test_ease_predicts_an_item_from_the_others_and_never_from_itself(met: Discoveries) -> None:
    found = dense(similarity.ease(met, ridge=1.0))
    users = met.matrix().toarray()[:, FIRST_ROW:]
    for item in range(4):  # each column is the ridge regression of the item on the others
        others = np.delete(users, item, axis=1)
        expected = np.linalg.solve(others.T @ others + np.eye(3), others.T @ users[:, item])
        np.testing.assert_allclose(np.delete(found[FIRST_ROW:, FIRST_ROW + item], item), expected, atol=1e-5)
    assert not found.diagonal().any()


def test_transitions_know_the_direction(met: Discoveries) -> None:
    found = dense(similarity.transitions(met, ridge=0.1))
    assert found[B, C] > 0.3
    assert abs(found[C, B]) < 1e-6


def test_a_catalogue_too_large_to_invert_keeps_its_most_met_items(
    met: Discoveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "MAX_DENSE_ITEMS", 3)
    found = dense(similarity.ease(met))
    assert found[A, B] != 0
    assert not found[D].any()


def test_the_newest_item_weighs_most_and_a_repeated_one_counts_once() -> None:
    nothing = np.array([], np.int64)
    whole = Question(
        name="test",
        cut_us=0,
        fit=LOG,
        history=LOG,
        moments=moments_at(LOG, np.arange(4), 10_000_000),
        target_row=nothing,
        target_item=nothing,
        target_time_us=nothing,
    )
    weights = _weights(whole, fading=1.0)
    np.testing.assert_allclose(weights[0, [C, A, B]], np.exp([0.0, -1.0, -2.0]), rtol=1e-6)
    assert set(_weights(whole, fading=np.inf)[0].tolist()) == {0.0, 1.0}


def _weights(question: Question, fading: float) -> np.ndarray:
    rows = np.arange(4, dtype=np.int32) + FIRST_ROW
    return np.asarray(history_weights(question, rows, FIRST_ROW + 4, fading=fading).toarray())


def test_content_brings_items_of_a_category_together(tmp_path: Path) -> None:
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["shoe", "shoe", "tea"], "text": ["", None, "green"]})
    items["categories"] = [["shoes"], ["shoes"], []]
    items["price"] = [10.0, None, np.nan]
    items.to_parquet(tmp_path / "items.parquet")
    vectors = item_vectors(tmp_path / "items.parquet", np.array(["a", "b", "c", "not in the catalogue"], object))
    found = dense(similarity.content(vectors.values))
    assert found[A, B] > 0.9
    assert not found[C].any()
    assert not found[D].any()


def test_words_that_no_space_parts_bring_items_together(tmp_path: Path) -> None:
    names = {"a": "红色运动鞋", "b": "男士运动鞋", "c": "蓝色毛衣", "d": "รองเท้ากีฬา", "e": "เสื้อกันหนาว"}
    items = pd.DataFrame({"item_id": list(names), "title": list(names.values()), "categories": None, "text": None})
    items.assign(price=np.nan).to_parquet(tmp_path / "items.parquet")
    vectors = item_vectors(tmp_path / "items.parquet", np.array(list(names), object)).values
    found = (vectors @ vectors.T).toarray()
    assert found[A, B] > 0.5
    assert found[A, C] == found[B, C] == 0


def test_without_a_catalogue_content_says_nothing(tmp_path: Path) -> None:
    vectors = item_vectors(tmp_path / "none.parquet", np.array(["a", "b"], object))
    assert not dense(similarity.content(vectors.values)).any()


def test_the_best_items_come_in_order_and_ties_by_row() -> None:
    scores = np.random.default_rng(0).integers(0, 5, (20, 60)).astype(float)
    is_past = np.random.default_rng(1).random(scores.shape) < 0.3
    is_past[0, 3:] = True  # fewer left than asked for
    expected = np.argsort(-np.where(is_past, -np.inf, scores), axis=1, kind="stable")[:, :10]
    found = top_items(scores, is_past, 10)
    np.testing.assert_array_equal(found[1:], expected[1:])
    assert sorted(found[0].tolist())[:8] == [0] * 8
