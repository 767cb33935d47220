"""The blend: which part is trusted for which user, and that serving says what training said."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import tensorflow as tf

from tests.training.conftest import SMALL, Trained
from training.blend import blend_file
from training.blend.blend import CHANNELS, FACTS, FADINGS, Past, evidence, popularity_windows
from training.blend.evidence import Evidence
from training.blend.neighbours import MATRICES, neighbours_of
from training.evaluation.asking import make_sheet, top_items, validation_ndcg
from training.evaluation.scoring import BlendScorer, model_scorer
from training.examples.lessons import make_examples
from training.examples.preparation import prepare
from training.examples.split import split
from training.fitting.blend_fitting import LEAST_USERS, fit_blend, prior_weights
from training.fitting.listwise import Lists, fit_lists
from training.fitting.untrained import new_recommender
from training.release.incumbent import Published
from training.release.publish import write_user_weights
from training.reports import examination
from training.vocabulary import FIRST_ROW

A, B, C, D = range(FIRST_ROW, FIRST_ROW + 4)
ROWS = FIRST_ROW + 4


def same_for_all(matrix: np.ndarray) -> Evidence:
    return Evidence(ease=matrix, transitions=matrix, item_knn=sp.csr_array(matrix), content=sp.csr_array(matrix))


def test_what_many_of_the_past_speak_for_adds_up_and_fades() -> None:
    says = np.zeros((ROWS, ROWS), np.float32)
    says[A, C], says[B, C], says[B, D], says[A, D] = 0.5, 1.0, 0.25, -3.0
    found = evidence(past([B, A, B]), neighbours_of(same_for_all(says)).matrices)[0]  # [rows, matrices, fadings]
    for kind in range(len(MATRICES)):
        np.testing.assert_allclose(found[C, kind], [1.0 + 0.5 * np.exp(-1 / fading) for fading in FADINGS], rtol=1e-6)
        np.testing.assert_allclose(found[D, kind], 0.25)  # what speaks against an item is not counted
        assert not found[[A, B], kind].any()


def past(*histories: list[int], gap_days: float = 0.0) -> Past:
    items = np.zeros((len(histories), 5), np.int32)
    for row, history in enumerate(histories):
        items[row, : len(history)] = history
    return Past(items=items, age_s=np.where(items > 0, gap_days * 86_400, 0).astype(np.float32))


def test_dense_and_sparse_matrices_keep_the_same_neighbours() -> None:
    dense = np.random.default_rng(0).normal(size=(30, 30)).astype(np.float32)
    found = neighbours_of(same_for_all(dense))
    np.testing.assert_array_equal(found.rows[:, 0], found.rows[:, 2])
    np.testing.assert_array_equal(found.values[:, 0], found.values[:, 2])
    assert (found.values[:, 0] > 0).sum() == (dense > 0).sum()


def test_facts_are_the_items_met_the_days_since_and_whether_there_are_none() -> None:
    facts = past([A, B, A, 1], [], gap_days=6.0).facts()
    np.testing.assert_allclose(facts[0], [1.0, np.log(3), np.log(7), 0.0], rtol=1e-6)
    assert facts[1, [0, 3]].tolist() == [1.0, 1.0]


def lists(users: int = 400, *, seed: int = 0) -> Lists:
    """Channel 0 is right for users of fact 1 = −1, channel 1 for those of +1, channel 2 for nobody."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(users, 20, 3)).astype(np.float32)
    side = rng.choice([-1.0, 1.0], users)
    logits = 2.0 * np.where(side[:, None] < 0, x[:, :, 0], x[:, :, 1])
    met = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    target = np.zeros(logits.shape, np.float32)
    target[np.arange(users), met] = 1.0
    facts = np.stack([np.ones(users), side], axis=1).astype(np.float32)
    return Lists(x=x, target=target, log_weight=np.zeros(logits.shape, np.float32), facts=facts)


def test_the_weights_follow_the_user() -> None:
    weights = fit_lists(lists(), prior=np.zeros((3, 2)), ridge=1.0)
    thin, rich = weights @ [1.0, -1.0], weights @ [1.0, 1.0]
    np.testing.assert_allclose(thin, [2.0, 0.0, 0.0], atol=0.5)
    np.testing.assert_allclose(rich, [0.0, 2.0, 0.0], atol=0.5)


def test_a_strong_ridge_stays_with_the_prior() -> None:
    prior = np.full((3, 2), 0.3)
    np.testing.assert_allclose(fit_lists(lists(), prior=prior, ridge=1e7), prior, atol=1e-3)


def test_candidates_that_stand_for_many_count_as_many() -> None:
    """A list whose negatives are doubled, or weighed twice, asks the same."""
    whole = lists(200)
    is_target = whole.target[:, :, None] > 0
    others = np.where(is_target, 0.0, whole.x).astype(np.float32)
    doubled = Lists(
        x=np.concatenate([whole.x, others], axis=1),
        target=np.concatenate([whole.target, np.zeros_like(whole.target)], axis=1),
        log_weight=np.concatenate([whole.log_weight, np.where(whole.target > 0, -np.inf, 0.0)], axis=1),
        facts=whole.facts,
    )
    weighed = replace(whole, log_weight=np.where(whole.target > 0, 0.0, np.log(2.0)).astype(np.float32))
    one, other = (fit_lists(each, prior=np.zeros((3, 2)), ridge=1.0) for each in (doubled, weighed))
    np.testing.assert_allclose(one, other, atol=1e-4)


def scorers(trained: Trained) -> tuple[BlendScorer, BlendScorer]:
    """`rank` and `retrieve` at training time, asked the test."""
    question = split(trained.run.log, "temporal", SMALL).test
    prepared = prepare(question.fit, question.cut_us)
    features = trained.run.user_columns(question.moments).features
    network = model_scorer(trained.model.recommender, question, prepared.tables, features, prepared.popularity)
    windows = popularity_windows(prepared.fit, prepared.tables.item_row, prepared.num_rows, question.moments.as_of_us)
    blend = trained.model.blend
    rank, retrieve = (
        BlendScorer(blend=blend, mix=mix, network=network, windows=windows) for mix in (blend.rank, blend.retrieve)
    )
    return rank, retrieve


def test_served_ranks_are_the_ranks_of_training(trained: Trained, tmp_path: Path) -> None:
    question = split(trained.run.log, "temporal", SMALL).test
    features = trained.run.user_columns(question.moments).features
    weights = tmp_path / "user_weights.parquet"
    publish_weights(trained, weights)
    served = Published(version=trained.model.version, directory=trained.exported, user_weights=weights)
    users = slice(0, len(question.moments))
    answered = served.scorer(question, features, trained.model.item_ids)(users)[:, FIRST_ROW:]
    rank, retrieve = scorers(trained)
    expected = 1.0 / (1.0 + np.exp(-rank(users)[:, FIRST_ROW:]))
    np.testing.assert_allclose(answered, expected, atol=1e-5)
    prepared = prepare(question.fit, question.cut_us)
    is_past, _ = make_sheet(question, prepared.tables.item_row, prepared.num_rows).dense(users)
    best = top_items(retrieve(users), is_past, 8)
    inputs = served.scorer(question, features, trained.model.item_ids).inputs
    signature = tf.saved_model.load(str(trained.exported)).signatures["retrieve"]
    found = signature(**{name: tf.constant(value) for name, value in inputs.items()})["item_ids"].numpy().astype(str)
    np.testing.assert_array_equal(found, trained.model.item_ids[best - FIRST_ROW].astype(str))


def publish_weights(trained: Trained, path: Path) -> None:
    write_user_weights(path, trained.model.user_weights(), now=datetime(2026, 4, 1, tzinfo=UTC))


def test_a_blend_comes_back_from_disk_as_it_was(trained: Trained, tmp_path: Path) -> None:
    blend = trained.model.blend
    blend_file.save(blend, tmp_path / "blend.npz")
    back = blend_file.load(tmp_path / "blend.npz")
    np.testing.assert_array_equal(back.rank.weights, blend.rank.weights)
    np.testing.assert_array_equal(back.neighbours.rows, blend.neighbours.rows)
    assert (back.ridge, back.users, back.note) == (blend.ridge, blend.users, blend.note)


def test_retrieve_never_needs_the_ranking_head(trained: Trained) -> None:
    assert not trained.model.blend.retrieve.reads_head
    assert trained.model.blend.rank.weights.shape == (len(CHANNELS), len(FACTS))


def test_a_blend_is_fitted_and_calibrated(trained: Trained) -> None:
    _, assessment = examination.evaluate(trained.run, trained.model)
    blend, answer = trained.model.blend, assessment.answers["longtail"]
    assert blend.users >= LEAST_USERS
    assert not blend.note
    assert (answer.target_score > 0).mean() > 0.6  # at or over a half
    assert (answer.negative_score < 0).mean() > 0.6


def test_a_log_too_small_to_learn_a_blend_has_the_usual_weights_and_says_so(trained: Trained) -> None:
    question = split(trained.run.log, "temporal", SMALL).validation
    few = np.arange(LEAST_USERS - 5)
    keep = np.isin(question.target_row, few)
    small = replace(
        question,
        moments=question.moments.take(few),
        target_row=question.target_row[keep],
        target_item=question.target_item[keep],
        target_time_us=question.target_time_us[keep],
    )
    prepared = prepare(question.fit, question.cut_us)
    features = trained.run.user_columns(small.moments).features
    network = model_scorer(trained.model.recommender, small, prepared.tables, features, prepared.popularity)
    blend = fit_blend(small, prepared, trained.run.evidence(prepared), network, seed=0)
    np.testing.assert_allclose(blend.rank.weights, prior_weights(), atol=1e-6)
    assert f"{LEAST_USERS} are needed" in blend.note


def test_without_a_network_worth_hearing_the_evidence_ranks(trained: Trained) -> None:
    made = split(trained.run.log, "temporal", SMALL)
    prepared = prepare(made.validation.fit, made.validation.cut_us)
    untrained = new_recommender(prepared, make_examples(prepared, trained.run.user_features, SMALL), SMALL, epochs=1)
    features = trained.run.user_columns(made.validation.moments).features
    network = model_scorer(untrained, made.validation, prepared.tables, features, prepared.popularity)
    blend = fit_blend(made.validation, prepared, trained.run.evidence(prepared), network, seed=0)
    at = made.validation.moments.as_of_us
    windows = popularity_windows(prepared.fit, prepared.tables.item_row, prepared.num_rows, at)
    sheet = make_sheet(made.validation, prepared.tables.item_row, prepared.num_rows)
    alone = validation_ndcg(sheet, network)()
    assert (
        validation_ndcg(sheet, BlendScorer(blend=blend, mix=blend.rank, network=network, windows=windows))() > 2 * alone
    )
