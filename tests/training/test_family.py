"""The encoders behind one interface: what is trained on packed rows is what serving asks, and it learns."""

from __future__ import annotations

import doctest
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tensorflow as tf

from feature_repo.errors import LongtailError
from feature_repo.settings import FeatureSettings
from tests.training.conftest import SMALL, TASTES, VERSION, run_on, write_log
from tests.training.family_world import DAY_S, FEATURES, SEQUENCE, features_of, lives, world
from training import workflow
from training.artifact import folded
from training.evaluation.scoring import ModelScorer
from training.examples import sequences
from training.examples.lessons import make_examples
from training.examples.moments import Moments, history_inputs, moments_at
from training.examples.preparation import prepare
from training.examples.sequences import SequenceExamples, cut_windows, pack
from training.export.saved_model import export
from training.fitting import runs
from training.fitting.batches import batch_rows, make_batches
from training.fitting.checkpoint import Checkpoint, Checkpoints
from training.fitting.fitting import fit
from training.fitting.progress import Epoch, Progress
from training.fitting.untrained import new_recommender
from training.log.engagements import from_rows
from training.model import build, example_inputs
from training.network import items, losses
from training.network.items import item_terms
from training.network.shape import EncoderName, ModelShape
from training.reports import examination
from training.settings import TrainingSettings


@pytest.mark.parametrize("lengths", [(1,), (3, 51, 52), (120, 7), (51, 51)])
def test_every_event_is_asked_for_once(lengths: tuple[int, ...]) -> None:
    log = lives(*lengths)
    windows = cut_windows(log, length=50, rng=np.random.default_rng(5))
    asked = np.concatenate([np.arange(a, b + 1) for a, b in zip(windows.asked, windows.last, strict=True)])
    assert sorted(asked.tolist()) == list(range(len(log)))
    assert (windows.length <= 51).all()
    assert (log.user[windows.first] == log.user[windows.last]).all()
    has_past = windows.asked - log.starts[log.user[windows.asked]] >= 25
    assert (windows.asked - windows.first >= 25)[has_past].all()


def test_only_the_latest_of_a_very_long_life_is_asked_for() -> None:
    log = lives(2_000, 5)
    windows = cut_windows(log, length=50, rng=np.random.default_rng(5))
    assert (windows.last - windows.asked + 1)[log.user[windows.last] == 0].sum() <= sequences.LONGEST + 25


def test_packed_windows_share_rows_and_no_token() -> None:
    lengths = np.random.default_rng(0).integers(1, 52, 300)
    row, token = pack(lengths, room=51, rng=np.random.default_rng(1))
    places = np.concatenate([51 * r + t + np.arange(n) for r, t, n in zip(row, token, lengths, strict=True)])
    assert len(np.unique(places)) == lengths.sum()
    assert (token + lengths <= 51).all()
    assert (row.max() + 1) * 51 < 1.05 * lengths.sum()


def test_epochs_of_other_cuts_have_batches_of_one_number_and_shape() -> None:
    _, examples, _ = world(lives(70, 55, 90, 3))
    batches = make_batches(examples, TrainingSettings.model_validate({**SEQUENCE, "batch_rows": 2}))
    shapes = set()
    for _ in range(6):
        for index in range(len(batches)):
            inputs, labels = batches[index]
            shapes.add((labels.shape, *(value.shape for value in inputs.values())))
        batches.on_epoch_end()
    assert len(shapes) == 1


@pytest.mark.parametrize("encoder", ["transformer", "bert"])
def test_what_is_trained_on_packed_rows_is_what_serving_asks(encoder: str) -> None:
    """At every moment of the rows the score is that of the user's history until then, asked alone."""
    log = lives(6, 1, 14, 51, 3)
    prepared, examples, recommender = world(
        log, encoder=encoder, mask_share=0.0001, missing_values={"log_events": "similar"}
    )
    assert isinstance(examples, SequenceExamples)
    rows = examples.pack(np.random.default_rng(0))
    batch, _ = rows.batch(np.arange(len(rows)), np.random.default_rng(0))
    packed = recommender(batch)
    is_moment = batch["example_weight"] > 0
    assert is_moment.sum() >= (5 if encoder == "transformer" else 2)
    asked = {name: value[is_moment] for name, value in batch.items() if name.startswith("candidate_") or name == "user"}
    row, moment = np.nonzero(is_moment)
    own = event_of(examples, batch, row, batch["moment"][row, moment])
    moments = Moments(user=log.user[own], start=log.starts[log.user[own]], end=own, as_of_us=log.time_us[own])
    asked |= history_inputs(log, moments, prepared.tables, length=50)
    asked["user_features"] = features_of(log.user[own], log.time_us[own])
    alone = recommender(asked)
    for head in ("rank", "retrieve"):
        of_moments = np.asarray(packed[head]).reshape(*is_moment.shape, -1)[is_moment]
        np.testing.assert_allclose(of_moments, np.asarray(alone[head]), atol=2e-5)


def event_of(
    examples: SequenceExamples, batch: dict[str, np.ndarray], row: np.ndarray, token: np.ndarray
) -> np.ndarray:
    """The event that tokens ask for, found by the features of its moment."""
    found = examples.user_features[:, 1:]
    asked = batch["user_features"][row, token][:, 1:]
    return np.array([int(np.flatnonzero((found == one).all(axis=1))[0]) for one in asked])


def test_a_question_never_sees_its_answer() -> None:
    """Another item as the answer, and later ones, change nothing of the user before it."""
    _, examples, recommender = world(lives(12))
    assert isinstance(examples, SequenceExamples)
    rows = examples.pack(np.random.default_rng(0))
    batch, _ = rows.batch(np.arange(1), np.random.default_rng(0))
    changed = {**batch, "items": batch["items"].copy()}
    changed["items"][0, :6] = 3
    before, after = (np.asarray(recommender(one)["users"]) for one in (batch, changed))
    np.testing.assert_array_equal(before[0, 6:], after[0, 6:])
    assert np.abs(before[0, :6] - after[0, :6]).max() > 1e-3


def test_bert_is_not_told_what_it_guesses() -> None:
    log = lives(30, 8, items=500)
    _, examples, _ = world(log, encoder="bert", mask_share=0.5)
    assert isinstance(examples, SequenceExamples)
    rows = examples.pack(np.random.default_rng(0))
    batch, _ = rows.batch(np.arange(len(rows)), np.random.default_rng(0))
    is_guessed = batch["target_weight"] > 0
    assert 0.2 < is_guessed.sum() / len(log) < 0.9
    assert (batch["items"][is_guessed] == 0).all()
    is_read = batch["items"] > 0
    np.testing.assert_array_equal(batch["items"][is_read], batch["targets"][is_read])  # what is read is in its place


def test_what_was_met_before_is_read_and_not_asked_for() -> None:
    log = from_rows([("u", item, "view", 1e9 + step * DAY_S) for step, item in enumerate("abab") if item])
    _, examples, _ = world(log)
    assert isinstance(examples, SequenceExamples)
    batch, _ = examples.pack(np.random.default_rng(0)).batch(np.arange(1), np.random.default_rng(0))
    assert (batch["target_weight"][0, :4] > 0).tolist() == [False, False, True, True]  # newest first
    assert (batch["items"][0, :4] > 0).tolist() == [True, True, True, False]


def test_the_softmax_is_that_of_all_items() -> None:
    scores = np.array([[1.0, 2.0, 0.5, -1.0]], np.float32)
    expected = -np.log(np.exp(2.0) / np.exp(scores).sum())
    items, own = np.array([2, 3, 4, 5]), np.array([3])
    loss = losses.softmax_against(scores[:, 1], losses.without_own(scores, items, own))
    np.testing.assert_allclose(np.asarray(loss), [expected], rtol=1e-6)


def test_gbce_without_calibration_is_binary_cross_entropy() -> None:
    positive, negative = np.array([0.3], np.float32), np.array([[0.1, -2.0]], np.float32)
    plain = np.log1p(np.exp(-0.3)) + np.log1p(np.exp(0.1)) + np.log1p(np.exp(-2.0))
    loss = np.asarray(losses.gbce(positive, negative, num_items=101, calibration=0.0))
    np.testing.assert_allclose(loss, [plain], rtol=1e-5)
    weaker = np.asarray(losses.gbce(positive, negative, num_items=101, calibration=1.0))
    np.testing.assert_allclose(loss - weaker, 0.98 * np.log1p(np.exp(-0.3)), rtol=1e-4)  # α = 2/100 = β


@pytest.mark.parametrize("encoder", ["attention", "transformer"])
def test_a_learnt_prior_gives_users_without_weights_those_of_users_like_them(encoder: str) -> None:
    recommender = world(lives(6, 14, 3), encoder=encoder, learnt_prior=True)[2]
    shape = recommender.model_shape
    inputs = example_inputs(shape, batch=2, candidates=4)
    inputs |= {"candidate_items": np.tile(np.arange(2, 6, dtype=np.int32), (2, 1))}
    inputs["history_items"][1, :3] = (4, 3, 2)  # the first user has no past
    user = recommender.encode(inputs)
    known = np.zeros((2, shape.embedding_size + 1), np.float32)
    items = (recommender.bias(inputs["candidate_items"]), recommender.items(inputs["candidate_items"]))

    def ranked(user_weights: np.ndarray) -> np.ndarray:
        popularity = inputs["candidate_popularity"]
        return np.asarray(recommender.logits(user, *items, popularity, user_weights=user_weights)["rank"])

    expected_own = np.asarray(recommender.prior_mean(user.embedding))
    assert not np.allclose(expected_own[0], expected_own[1])
    with_prior = ranked(known)
    recommender.prior_mean.kernel.assign(np.zeros(recommender.prior_mean.kernel.shape))
    np.testing.assert_allclose(with_prior, ranked(expected_own), rtol=1e-5, atol=1e-5)
    assert np.abs(with_prior - ranked(known)).max() > 0.01


def write_catalogue(path: Path) -> Path:
    """Each item says its shelf, and so do two cold items of each shelf; one item says nothing."""
    shelves = [(f"item-{shelf}-{number}", f"shelf {shelf}") for shelf in range(TASTES) for number in range(1, 20)]
    shelves += [(f"new-{shelf}-{number}", f"shelf {shelf}") for shelf in range(TASTES) for number in range(2)]
    frame = pd.DataFrame(shelves, columns=["item_id", "title"])
    frame["categories"] = [[title] for title in frame["title"]]
    frame["withdrawn"] = frame["item_id"] == "new-0-1"
    frame.assign(text=None, price=np.nan).to_parquet(path)
    return path


def test_the_transformer_learns_tastes_and_ranks_items_that_nobody_has_met(tmp_path: Path) -> None:
    chosen = {"encoder": "transformer", "max_epochs": 6, "learning_rate": 1e-2, "learnt_prior": True}
    settings = SMALL.model_copy(update=chosen)
    events = write_log(tmp_path / "events", 0.95)
    run = runs.start(events, FeatureSettings(), settings, catalogue=write_catalogue(tmp_path / "items.parquet"))
    model = workflow.train(run, tmp_path, version=VERSION, resume=False, progress=Progress())
    _, assessment = examination.evaluate(run, model)
    measured = {name: np.nanmean(answer.per_user["auc"]) for name, answer in assessment.answers.items()}
    assert measured["longtail"] > measured["popularity"] + 0.2
    assert "new-0-0" in model.item_ids
    assert "new-0-1" not in model.item_ids  # withdrawn
    directory = export(model, tmp_path / "exports", retrieve_k=8, candidate_buckets=(4,), metrics={})
    rank = tf.saved_model.load(str(directory)).signatures["rank"]
    scores = rank(**asked_by(0, ["new-0-0", "new-1-0", "new-2-0", "new-3-0"]))["scores"].numpy()[0]
    assert scores.argmax() == 0


def asked_by(shelf: int, candidates: list[str]) -> dict[str, tf.Tensor]:
    """A request of a user who has met items of one shelf."""
    met = [f"item-{shelf}-{number}" for number in range(1, 6)]
    inputs = {
        "history_item_ids": np.array([met + [""] * 45]),
        "history_event_types": np.array([["view"] * 5 + [""] * 45]),
        "history_age_s": np.array([[86400.0 * (1 + n) for n in range(5)] + [0.0] * 45], np.float32),
        "user_features": np.full((1, FEATURES), np.nan, np.float32),
        "user_weights": np.zeros((1, SMALL.embedding_size + 1), np.float32),
        "user_weights_version": np.zeros(1, np.int64),
        "candidate_item_ids": np.array([candidates]),
    }
    return {name: tf.constant(value) for name, value in inputs.items()}


def test_the_transformer_learns_nothing_from_noise(tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"encoder": "transformer", "max_epochs": 1, "learning_rate": 1e-2})
    run = run_on(write_log(tmp_path / "events", 0.0), settings)
    model = workflow.train(run, tmp_path, version=VERSION, resume=False, progress=Progress())
    _, assessment = examination.evaluate(run, model)
    assert np.nanmean(assessment.answers["longtail"].per_user["auc"]) < 0.6


def test_a_folded_table_gives_the_same_scores() -> None:
    said = sp.csr_array(np.random.default_rng(0).random((13, 5)).astype(np.float32))
    terms = item_terms(said, np.array(list("abcde")), np.array(["cold-1", "cold-2"], object), most=3)
    shape = ModelShape(num_users=2, num_items=9, encoder="transformer", embedding_size=8, num_heads=2)
    recommender = build(replace(shape, num_terms=5, terms_per_item=3))
    recommender.items.know(terms)
    plain = folded(recommender, terms, rarity=np.arange(9))
    inputs = example_inputs(shape, batch=2, candidates=9)
    inputs["candidate_items"] = np.tile(np.arange(2, 11, dtype=np.int32), (2, 1))
    inputs["history_items"][:, :3] = [[2, 3, 4], [9, 10, 2]]
    for head in ("rank", "retrieve"):
        np.testing.assert_allclose(np.asarray(recommender(inputs)[head]), np.asarray(plain(inputs)[head]), atol=1e-6)
    cold = np.asarray(plain.items.embeddings)[-2:]
    meanings = np.asarray(recommender.items.terms)
    np.testing.assert_allclose(cold[0], terms.weights[11] @ meanings[terms.ids[11]], atol=1e-6)


def test_what_is_said_of_all_items_at_once_is_what_is_said_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    said = sp.csr_array(np.random.default_rng(0).random((13, 5)).astype(np.float32))
    shape = ModelShape(num_users=2, num_items=11, encoder="transformer", embedding_size=8, num_heads=2)
    table = build(replace(shape, num_terms=5, terms_per_item=3)).items
    table.know(item_terms(said, np.array(list("abcde")), np.array([], object), most=3))
    rows = np.array([[2, 3, 2], [12, 0, 7]], np.int32)
    of_each = np.asarray(table(rows))
    assert np.abs(of_each - np.asarray(table.embeddings)[rows]).max() > 0.01  # something is said
    np.testing.assert_allclose(np.asarray(table(rows, said=table.said_of_all())), of_each, atol=1e-6)
    monkeypatch.setattr(items, "SAID_AT_ONCE", 12)
    assert table.said_of_all() is None  # 13 rows


@pytest.mark.parametrize("encoder", ["attention", "transformer"])
@pytest.mark.parametrize("time_gaps", [True, False])
def test_times_are_read_where_the_settings_say_so(encoder: EncoderName, time_gaps: bool) -> None:
    shape = ModelShape(num_users=1, num_items=3, encoder=encoder, embedding_size=8, num_heads=2, time_gaps=time_gaps)
    recommender = build(shape)
    inputs = example_inputs(shape, candidates=3)
    inputs["history_items"][:, :2], inputs["history_types"][:, :2] = [[2, 3]], 2
    embeddings = []
    for age_s in (60.0, 90_000.0):
        inputs["history_age_s"][:, :2] = [[age_s, 3 * age_s]]
        embeddings.append(np.asarray(recommender.encode(inputs).tokens))
    assert np.allclose(embeddings[0], embeddings[1]) is not time_gaps


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(sequences).failed == 0
    assert batch_rows(3, TrainingSettings()) == 2


def test_a_loss_that_is_no_number_stops_and_keeps_what_was_good(tmp_path: Path) -> None:
    checkpoints = Checkpoints(directory=tmp_path, fingerprint="one")
    log = lives(40, 30, 50)

    settings = TrainingSettings.model_validate({**SEQUENCE, "learning_rate": 1e30, "batch_rows": 1})
    prepared = prepare(log, int(log.time_us.max()) + 1)
    examples = make_examples(prepared, features_of, settings)
    recommender = new_recommender(prepared, examples, settings, epochs=3)
    good = Epoch(epoch=1, loss=1.0, validation_ndcg=None)
    checkpoints.save(recommender, Checkpoint(fingerprint="one").after(1, good.as_json(), None, settings.patience))
    kept = (tmp_path / "last.npz").read_bytes()
    with pytest.raises(LongtailError, match="no longer a finite number"):
        fit(recommender, examples, settings, epochs=3, checkpoints=checkpoints, resume=True)
    assert (tmp_path / "last.npz").read_bytes() == kept


@pytest.mark.parametrize("broken", [b"", b"PK\x03\x04 half of it", None], ids=["empty", "cut off", "another version"])
def test_a_checkpoint_that_cannot_be_read_says_so(broken: bytes | None, tmp_path: Path) -> None:
    if broken is None:
        np.savez(tmp_path / "last.npz", state='{"fingerprint": "one", "of": "tomorrow"}')
    else:
        (tmp_path / "last.npz").write_bytes(broken)
    with pytest.raises(LongtailError, match="train without --resume"):
        Checkpoints(directory=tmp_path, fingerprint="one").restore(build(ModelShape(num_users=1, num_items=1)))


def test_mixed_precision_learns_in_bfloat16_and_keeps_float32() -> None:
    _, examples, recommender = world(lives(12, 9, 20), precision="bfloat16")
    assert isinstance(examples, SequenceExamples)
    assert recommender.compute_dtype == "bfloat16"
    rows = examples.pack(np.random.default_rng(0))
    loss = recommender.train_on_batch(*rows.batch(np.arange(len(rows)), np.random.default_rng(0)))
    assert np.isfinite(loss)
    kept = folded(recommender, None, rarity=np.arange(9))
    assert kept.compute_dtype == "float32"
    inputs = example_inputs(kept.model_shape, candidates=5)
    near, exact = (np.asarray(model(inputs)["rank"], np.float32) for model in (recommender, kept))
    np.testing.assert_allclose(near, exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("encoder", ["attention", "transformer"])
def test_a_catalogue_ranked_at_once_scores_as_asked_one_by_one(encoder: str) -> None:
    log = lives(6, 1, 14, 51, 3, 40)
    prepared, _, recommender = world(log, encoder=encoder)
    users = np.arange(6, dtype=np.int32)
    moments = moments_at(log, users, int(log.time_us.max()) + 1)
    moments = replace(moments, as_of_us=moments.as_of_us + np.arange(6) * 86_400_000_000)
    inputs = history_inputs(log, moments, prepared.tables, length=50)
    inputs |= {"user_features": features_of(users, moments.as_of_us), "user": users + 1}
    scorer = ModelScorer(recommender=recommender, inputs=inputs, table=prepared.popularity, as_of_us=moments.as_of_us)
    together = scorer.logits(slice(0, 6))
    rows = np.arange(prepared.num_rows, dtype=np.int32)
    for user in range(6):
        asked = {name: values[user : user + 1] for name, values in inputs.items()}
        asked["candidate_items"] = rows[None]
        period = prepared.popularity.periods(moments.as_of_us[user : user + 1])
        asked["candidate_popularity"] = prepared.popularity.features[period]
        for head, logits in recommender(asked).items():
            np.testing.assert_allclose(together[head][user], np.asarray(logits)[0], atol=2e-5)
    np.testing.assert_allclose(scorer.retrieval_logits(slice(0, 6)), together["retrieve"], atol=2e-5)
