"""What stands in for a missing user feature: learnt before the cut, and the same in training, artefact and service."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from feature_repo.contract import MODEL_FEATURES, MODEL_USER_FEATURES
from feature_repo.errors import LongtailError
from tests.training.conftest import SMALL, USERS, Trained
from tests.training.family_world import FEATURES, lives, world
from training import artifact
from training.artifact import TrainedModel
from training.blend.blend import Past
from training.blend.calibration import probability
from training.examples.lessons import make_examples
from training.examples.preparation import prepare
from training.examples.split import split
from training.export.saved_model import _trained_scores, export, sample_requests
from training.export.served_model import served
from training.export.stored_tables import as_served
from training.fitting.untrained import new_recommender
from training.network import fill_values
from training.network.fill_values import HISTORY_FROM
from training.release.model_card import model_card
from training.settings import TrainingSettings
from training.vocabulary import FIRST_ROW

EACH_KIND = {
    "log_events": "mean",
    "log_active_days": "median",
    "mean_gap_days": "similar",
    "visits_7d": "constant(2.5)",
    "visits_28d": "keep",
    "visits_90d": "similar",
    "days_since_last_seen": "mean",
    "days_since_first_seen": "constant(-1)",
}
NAMES = tuple(EACH_KIND)
nan = np.nan


def learnt(column: list[float], user: list[int], strategy: str, length: list[int] | None = None) -> list[float]:
    """What stands in for the first feature, by group."""
    features = np.full((len(column), FEATURES), nan, np.float32)
    features[:, 0] = column
    lengths = np.array(length or [0] * len(column))
    found = fill_values.learn(features, np.array(user), lengths, {MODEL_USER_FEATURES[0]: strategy})
    return [float(value) for value in found.values[:, 0]]


def test_each_user_counts_once_however_many_of_his_moments_are_known() -> None:
    column, user = [1.0, 1.0, 1.0, 5.0, nan, 9.0, np.inf], [0, 0, 0, 1, 1, 2, 3]
    assert learnt(column, user, "mean") == [5.0] * len(HISTORY_FROM)
    assert learnt(column, user, "median") == [5.0] * len(HISTORY_FROM)
    assert learnt([0.0, 0.0, 90.0], [0, 1, 2], "median")[0] == 0.0
    assert learnt(column, user, "constant(7)") == [7.0] * len(HISTORY_FROM)
    assert np.isnan(learnt(column, user, "keep")).all()


def test_similar_users_are_those_of_a_history_as_long_drawn_to_all_where_they_are_few() -> None:
    many = 400
    column, user, length = [2.0] * many + [8.0], [*range(many + 1)], [3] * many + [60]
    found = learnt(column, user, "similar", length)
    overall = (2.0 * many + 8.0) / (many + 1)
    assert found[HISTORY_FROM.index(2)] == pytest.approx(2.0, abs=0.01)
    assert overall < found[HISTORY_FROM.index(50)] < (overall + 8.0) / 2  # a single one decides nothing
    assert found[HISTORY_FROM.index(20)] == pytest.approx(overall)  # nobody is similar


@pytest.mark.parametrize("strategy", ["mean", "median", "similar"])
def test_what_no_training_user_has_is_the_contracts_default_and_says_so(strategy: str) -> None:
    features = np.full((4, FEATURES), nan, np.float32)
    features[:2, 0] = [np.inf, -np.inf]
    found = fill_values.learn(features, np.arange(4), np.arange(4), dict.fromkeys(MODEL_USER_FEATURES, strategy))
    expected = [nan if feature.default is None else feature.default for feature in MODEL_FEATURES]
    np.testing.assert_array_equal(found.values, np.tile(np.array(expected, np.float32), (len(HISTORY_FROM), 1)))
    assert not found.users.any()
    notes = found.notes()
    assert len(notes) == FEATURES
    assert all(f"`{strategy}` has nothing to learn from" in note for note in notes)
    assert "log_events" in notes[0]
    assert "0 stands in" in notes[0]
    assert "mean_gap_days" in notes[2]
    assert "it stays missing" in notes[2]


def test_what_has_nothing_to_learn_notes_nothing() -> None:
    features = np.full((4, FEATURES), nan, np.float32)
    assert not fill_values.learn(features, np.arange(4), np.arange(4), {"visits_7d": "constant(1)"}).notes()


def test_an_unknown_feature_or_strategy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match=r"no user feature 'mean_gap'.*log_events, .*mean_gap_days"):
        TrainingSettings.model_validate({"missing_values": {"mean_gap": "mean"}})
    for wrong in ("mode", "constant(nan)", 3, None):
        with pytest.raises(ValidationError, match=r"allowed is keep, mean, median, similar or constant\(x\)"):
            TrainingSettings.model_validate({"missing_values": {"mean_gap_days": wrong}})
    with pytest.raises(ValidationError, match="valid dict"):
        TrainingSettings.model_validate({"missing_values": "mean"})


def test_a_strategy_that_is_set_wins_over_the_contract() -> None:
    settings = TrainingSettings.model_validate({"missing_values": {"visits_7d": " constant( 2 ) "}})
    chosen = dict(zip(MODEL_USER_FEATURES, map(str, fill_values.strategies(settings.missing_values)), strict=True))
    contract = {feature.name: feature.missing for feature in MODEL_FEATURES}
    assert chosen == {**contract, "visits_7d": "constant(2)"}


def test_what_happens_after_the_cut_changes_nothing(trained: Trained) -> None:
    settings = SMALL.model_copy(update={"encoder": "transformer", "missing_values": EACH_KIND})
    question = split(trained.run.log, "temporal", settings).validation
    events = trained.run.reader.events
    cut = events.event_time.epoch_seconds() >= question.cut_us // 1_000_000 + 1
    moved = events.mutate(
        user_id=cut.ifelse("user-1", events.user_id), event_type=cut.ifelse("purchase", events.event_type)
    )
    another = replace(trained.run, reader=replace(trained.run.reader, events=moved))
    prepared = prepare(question.fit, question.cut_us)
    found = [
        new_recommender(prepared, make_examples(prepared, run.user_features, settings), settings, epochs=1)
        for run in (trained.run, another)
    ]
    at_last = np.arange(USERS), np.full(USERS, trained.run.log.time_us.max() + 1)
    assert (trained.run.user_features(*at_last) != another.user_features(*at_last)).any()
    for name in ("fill", "mean", "deviation", "has_flag"):
        before, after = (np.asarray(getattr(one.encoder.normalise, name)) for one in found)
        np.testing.assert_array_equal(before, after)
    assert found[0].fill_values.as_json() == found[1].fill_values.as_json()
    assert not found[0].fill_values.notes()


def test_a_missing_feature_scores_as_the_value_that_stands_in() -> None:
    _, _, recommender = world(lives(6, 14, 30), missing_values=EACH_KIND)
    normalise = recommender.encoder.normalise
    lengths = np.array(HISTORY_FROM, np.int32)
    missing = np.full((len(lengths), FEATURES), nan, np.float32)
    given = recommender.fill_values.values.copy()
    kept = NAMES.index("visits_28d")
    given[:, kept] = nan
    for wrong in (nan, np.inf, -np.inf):
        missing[:] = wrong
        np.testing.assert_array_equal(np.asarray(normalise(missing, lengths)), np.asarray(normalise(given, lengths)))
    flags = np.asarray(normalise(missing, lengths))[:, FEATURES:]
    np.testing.assert_array_equal(flags, np.tile(np.arange(FEATURES) == kept, (len(lengths), 1)))


@dataclass(frozen=True, kw_only=True)
class Released:
    """A model of random weights that fills in each way, exported."""

    model: TrainedModel
    exported: Path
    loaded: Any  # the SavedModel; signatures live as long as this


@pytest.fixture(scope="module", params=["attention", "transformer"])
def released(trained: Trained, tmp_path_factory: pytest.TempPathFactory, request: Any) -> Iterator[Released]:
    settings = SMALL.model_copy(update={"encoder": request.param, "missing_values": EACH_KIND})
    question = split(trained.run.log, "temporal", settings).test
    prepared = prepare(question.fit, question.cut_us)
    examples = make_examples(prepared, trained.run.user_features, settings)
    recommender = new_recommender(prepared, examples, settings, epochs=1)
    rng = np.random.default_rng(1)
    for variable in recommender.trainable_variables:
        variable.assign(rng.normal(0.0, 0.2, variable.shape))
    folder = tmp_path_factory.mktemp("released")
    made = replace(trained.model, recommender=recommender, fill_values=recommender.fill_values)
    artifact.save(made, folder / "model")
    model = artifact.load(folder / "model")
    exported = export(model, folder / "exports", retrieve_k=8, candidate_buckets=(4,), metrics={})
    yield Released(model=model, exported=exported, loaded=tf.saved_model.load(str(exported)))


def test_served_answers_are_the_trained_ones_whatever_is_missing(released: Released) -> None:
    """Every subset of the features missing, as NaN and as infinity, in all three signatures."""
    patterns = np.array(list(itertools.product([False, True], repeat=FEATURES)))
    model, signatures = released.model, released.loaded.signatures
    inputs, rows = sample_requests(model, batch=len(patterns), candidates=4, seed=4)
    features = np.random.default_rng(0).exponential(3.0, patterns.shape)
    wrong = np.array([nan, np.inf, -np.inf])[np.arange(len(patterns)) % 3]
    rows["user_features"] = inputs["user_features"] = np.where(patterns, wrong[:, None], features).astype(np.float32)
    trained_scores = _trained_scores(model, rows, inputs)
    with served(released.exported) as loaded:
        np.testing.assert_allclose(loaded.ask("rank", inputs)["scores"], trained_scores, atol=1e-5)
    asked = {name: tf.constant(values) for name, values in inputs.items() if name != "candidate_item_ids"}
    user = model.recommender.encode(rows)
    np.testing.assert_allclose(signatures["encode_user"](**asked)["embedding"], user.embedding, atol=1e-5)
    np.testing.assert_allclose(signatures["retrieve"](**asked)["scores"], best(model, rows, user), atol=1e-5)
    neighbours = np.abs(np.diff(np.asarray(user.embedding), axis=0)).max(axis=1)
    assert (neighbours > 1e-4).all()  # what is missing does change the answer


def best(model: TrainedModel, rows: dict[str, np.ndarray], user: Any, k: int = 8) -> np.ndarray:
    """The scores of the best items that are not in the history, [batch, k], as training computes them."""
    items = np.broadcast_to(np.arange(len(model.popularity)), (len(rows["history_items"]), len(model.popularity)))
    vectors = model.recommender.items(items)
    dots = np.asarray(model.recommender.retrieve_logits(user, items, vectors, model.popularity[items]))
    past = Past(items=rows["history_items"], age_s=rows["history_age_s"])
    popularity = np.broadcast_to(model.blend.popularity, (len(items), *model.blend.popularity.shape))
    log_odds = model.blend.logits(model.blend.retrieve, past, popularity, dots=dots, head=None)
    np.put_along_axis(log_odds, rows["history_items"], -np.inf, axis=1)
    return probability(-np.sort(-log_odds[:, FIRST_ROW:], axis=1)[:, :k], 1.0, 0.0)


def test_the_artefact_keeps_what_was_learnt(released: Released, trained: Trained) -> None:
    normalise, kept = released.model.recommender.encoder.normalise, released.model.fill_values
    assert list(map(str, kept.strategies)) == list(EACH_KIND.values())
    is_kept = np.isnan(kept.values)
    np.testing.assert_array_equal(np.asarray(normalise.fill)[~is_kept], kept.values[~is_kept])
    np.testing.assert_array_equal(np.asarray(normalise.has_flag) > 0, is_kept.all(axis=0))
    assert (kept.users > 0).all()
    assert trained.model.fill_values.as_json()["features"]["mean_gap_days"]["strategy"] == "keep"


def test_the_contract_and_the_card_say_what_stands_in(released: Released) -> None:
    contract = json.loads((released.exported / "assets.extra/contract.json").read_text())
    said = contract["missing_values"]
    assert said == json.loads(json.dumps(released.model.fill_values.as_json()))
    assert said["features"]["visits_28d"]["fill"] is None
    assert said["features"]["visits_7d"]["fill"] == 2.5
    assert len(said["features"]["mean_gap_days"]["fill"]) == len(said["history_length_from"])
    assert as_served(released.model, "int8").fill_values.as_json() == released.model.fill_values.as_json()
    card = card_of(contract)
    assert "| visits_7d | constant(2.5) | 2.5 | 100 |" in card
    assert "| visits_28d | keep | missing, and the model is told | 100 |" in card
    assert "stays missing" not in card


def card_of(contract: dict[str, Any]) -> str:
    from tests.training.test_gate import judged, report

    return model_card(report({}), contract, judged({}), override=None)


def test_a_card_says_what_could_not_be_learnt_and_an_old_contract_says_nothing(released: Released) -> None:
    contract = json.loads((released.exported / "assets.extra/contract.json").read_text())
    nothing = np.full((1, FEATURES), nan, np.float32)
    learnt = fill_values.learn(nothing, np.zeros(1, int), np.zeros(1, int), {"mean_gap_days": "similar"})
    card = card_of({**contract, "missing_values": json.loads(json.dumps(learnt.as_json()))})
    assert "|\n\n- mean_gap_days is missing for all training users" in card  # below the table, not in it
    del contract["missing_values"]
    assert "Where a user feature is missing" not in card_of(contract)


def test_a_model_of_the_former_format_is_sent_back(released: Released, tmp_path: Path) -> None:
    artifact.save(released.model, tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    described = json.loads(path.read_text())
    del described["missing_values"]
    path.write_text(json.dumps(described | {"format": 3}))
    with pytest.raises(
        LongtailError, match=rf"format 3, this version reads {artifact.FORMAT}; run `longtail train` again"
    ):
        artifact.load(tmp_path / "model")


def test_a_model_of_other_user_features_is_sent_back(released: Released, tmp_path: Path) -> None:
    artifact.save(released.model, tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    described = json.loads(path.read_text())
    described["missing_values"]["features"]["age"] = described["missing_values"]["features"].pop("log_events")
    path.write_text(json.dumps(described))
    with pytest.raises(LongtailError, match=r"log_active_days, .*age, here they are log_events.*longtail train"):
        artifact.load(tmp_path / "model")


def test_a_model_that_was_never_fitted_keeps_what_is_missing() -> None:
    keras.utils.set_random_seed(0)
    assert {str(one) for one in fill_values.nothing_learnt().strategies} == {"keep"}
    again = fill_values.from_json(fill_values.nothing_learnt().as_json())
    np.testing.assert_array_equal(again.values, fill_values.nothing_learnt().values)
