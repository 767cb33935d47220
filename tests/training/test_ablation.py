"""Ablations: a part that decides is missed where it is left out, and one that is not heard leaves no trace."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tests.training.conftest import SMALL, Trained
from training.benchmarks.ablation import Measured, log_loss, rows_of
from training.benchmarks.ablation_parts import (
    PARTS,
    TEST,
    TRAININGS,
    VALIDATION,
    WHOLE,
    LeftOutScorer,
    answers_without,
)
from training.blend.blend import CHANNELS, DOTS, EVIDENCE_CHANNELS, FACTS, HEAD
from training.evaluation.asking import Answer, Sheet
from training.evaluation.assessment import Assessment
from training.evaluation.scoring import Scorer
from training.examples.split import split
from training.fitting.blend_fitting import Hearing, fit_mix, prior_weights
from training.fitting.blend_sample import FOLDS, Sample
from training.fitting.listwise import Lists
from training.reports import examination
from training.settings import TrainingSettings

USERS, CANDIDATES, PAIRS = 240, 12, 8
SPEAKS, DECIDES = CHANNELS.index(DOTS), CHANNELS.index(HEAD)


@pytest.fixture(scope="module")
def sample() -> Sample:
    """The head decides for users of many items, the dot product for those of few; of the others nothing comes."""
    rng = np.random.default_rng(0)
    x = np.zeros((USERS, CANDIDATES + PAIRS, len(CHANNELS)), np.float32)
    x[:, :, [SPEAKS, DECIDES]] = rng.normal(size=(USERS, CANDIDATES + PAIRS, 2))
    x[:, :, : len(EVIDENCE_CHANNELS)] = rng.random((USERS, CANDIDATES + PAIRS, len(EVIDENCE_CHANNELS)))
    facts = np.zeros((USERS, len(FACTS)), np.float32)
    facts[:, 0], facts[:, 1] = 1.0, rng.choice([-1.0, 1.0], USERS)
    decisive = np.where(facts[:, 1, None] > 0, x[:, :CANDIDATES, DECIDES], x[:, :CANDIDATES, SPEAKS])
    target = np.zeros((USERS, CANDIDATES), np.float32)
    target[np.arange(USERS), (3 * decisive + rng.gumbel(size=decisive.shape)).argmax(axis=1)] = 1.0
    lists = Lists(x=x[:, :CANDIDATES], target=target, log_weight=np.zeros((USERS, CANDIDATES), np.float32), facts=facts)
    return Sample(
        lists=lists,
        pairs=x[:, CANDIDATES:],
        fold=rng.integers(FOLDS, size=USERS),
        moment=np.arange(USERS),
    )


def test_what_is_not_heard_has_no_weight_for_anybody(sample: Sample) -> None:
    fitted = fit_mix(sample, Hearing(silent=EVIDENCE_CHANNELS))
    assert not fitted.mix.weights[: len(EVIDENCE_CHANNELS)].any()
    assert not any(mix.weights[: len(EVIDENCE_CHANNELS)].any() for mix in fitted.left_out)
    assert fitted.mix.reads_head
    assert not fit_mix(sample, Hearing(silent=(HEAD,))).mix.reads_head


def test_a_part_that_decides_is_missed_and_noise_is_not(sample: Sample) -> None:
    whole, headless, silent = (
        sample.lists.loss(fit_mix(sample, hearing).mix.weights.astype(np.float64))
        for hearing in (Hearing(), Hearing(silent=(HEAD,)), Hearing(silent=EVIDENCE_CHANNELS))
    )
    assert headless > whole + 0.3
    assert abs(silent - whole) < 0.05


def test_weights_for_everybody_are_the_same_and_explain_less(sample: Sample) -> None:
    by_user, for_all = (fit_mix(sample, Hearing(by_user=by_user)).mix for by_user in (True, False))
    assert not for_all.weights[:, 1:].any()
    assert by_user.weights[DECIDES, 1] > 0.5 > -0.5 > by_user.weights[SPEAKS, 1]
    assert for_all.calibration[:, 1:].any()


def test_one_calibration_for_everybody_leaves_the_weights_alone(sample: Sample) -> None:
    whole, one = fit_mix(sample).mix, fit_mix(sample, Hearing(calibrated_by_user=False)).mix
    np.testing.assert_array_equal(whole.weights, one.weights)
    assert not one.calibration[:, 1:].any()
    assert one.calibration[0, 0] > 0


def test_the_dot_product_speaks_for_a_silent_head() -> None:
    network = prior_weights((HEAD,))
    assert network[SPEAKS, 0] == pytest.approx(prior_weights()[[SPEAKS, DECIDES], 0].sum())
    assert not prior_weights((DOTS, HEAD))[[SPEAKS, DECIDES]].any()


def test_each_user_is_asked_of_the_other_folds() -> None:
    def says(number: float) -> Scorer:
        return lambda users: np.full((users.stop - users.start, 2), number)

    scorer = LeftOutScorer(folds=[says(number) for number in (0.0, 1.0, 2.0)], fold=np.array([2, 0, 1, 1]))
    assert scorer(slice(1, 4))[:, 0].tolist() == [0.0, 1.0, 1.0]


def test_what_a_part_gives_is_paired_by_user() -> None:
    whole = {"ndcg": np.array([0.5, 0.3, 0.9, 0.1]), "log_loss": np.array([0.2, 0.2, 0.2, 0.2])}
    without = {"ndcg": whole["ndcg"] - [0.1, 0.1, 0.0, 0.2], "log_loss": whole["log_loss"] + 0.3}
    measured = Measured(
        slices={"all": np.ones(4, bool), "tail": np.array([True, True, False, False])},
        per_user={WHOLE: whole, "network": without},
        calibration_error={part: {"all": 0.01, "tail": 0.02} for part in (WHOLE, "network")},
    )
    rows = {(row["part"], row["metric"], row["slice"]): row for row in rows_of(measured)}
    everybody, tail = rows["network", "ndcg", "all"], rows["network", "ndcg", "tail"]
    assert (everybody["users"], tail["users"]) == (4, 2)
    assert everybody["gives"] == pytest.approx(0.1)
    assert everybody["error"] == pytest.approx(np.std([0.1, 0.1, 0.0, 0.2], ddof=1) / 2)
    assert (tail["gives"], tail["error"]) == (pytest.approx(0.1), pytest.approx(0.0))
    assert rows["network", "log_loss", "all"]["gives"] == pytest.approx(0.3)  # less loss is better
    assert rows[WHOLE, "ndcg", "all"]["gives"] == 0.0


def test_log_loss_is_the_mean_over_a_users_targets_and_their_negatives() -> None:
    sheet = Sheet(
        history_row=np.zeros(0, np.int64),
        history_item=np.zeros(0, np.int32),
        target_row=np.array([0, 0, 2]),
        target_item=np.array([2, 3, 2], np.int32),
        num_users=3,
        num_rows=4,
    )
    answer = Answer(
        per_user={},
        top=np.zeros((3, 1), np.int32),
        target_score=np.array([0.0, np.log(3.0), 0.0]),
        negative_score=np.array([0.0, -np.log(3.0), np.log(3.0)]),
    )
    found = log_loss(answer, sheet)
    half, sure, wrong = np.log(2.0), np.log(4 / 3), np.log(4.0)
    np.testing.assert_allclose(found[[0, 2]], [(half + sure) / 2, (half + wrong) / 2])
    assert np.isnan(found[1])


def test_every_training_without_a_part_is_one_of_other_settings() -> None:
    usual = TrainingSettings(learnt_prior=True)  # with every part there is
    for without in TRAININGS.values():
        changed = TrainingSettings.model_validate(usual.model_dump() | dict(without))
        assert changed != usual


@pytest.fixture(scope="module")
def asked(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Assessment]:
    """Of the model that is already trained: nothing is fitted but blends."""
    made = split(trained.run.log, "temporal", SMALL)
    parts = {name: PARTS[name] for name in (WHOLE, "item to item", "own weights", "calibration by user")}
    checkpoints = tmp_path_factory.mktemp("ablation") / "checkpoints"
    shutil.copytree(trained.folder / "training" / "checkpoints", checkpoints)
    return answers_without(trained.run, made, checkpoints, parts)


def test_the_whole_is_the_kept_model(trained: Trained, asked: dict[str, Assessment]) -> None:
    kept = examination.evaluate(trained.run, trained.model)[1].answers["longtail"]
    again = asked[TEST].answers[WHOLE]
    np.testing.assert_allclose(again.target_score, kept.target_score, atol=1e-4)
    np.testing.assert_allclose(again.per_user["ndcg"], kept.per_user["ndcg"])


def test_a_calibration_changes_no_ranking(asked: dict[str, Assessment]) -> None:
    answers = asked[TEST].answers
    np.testing.assert_array_equal(answers[WHOLE].top, answers["calibration by user"].top)
    assert (answers[WHOLE].target_score != answers["calibration by user"].target_score).any()


def test_what_is_left_out_changes_what_is_answered(asked: dict[str, Assessment]) -> None:
    for question in (VALIDATION, TEST):
        answers = asked[question].answers
        for part in ("item to item", "own weights"):
            assert (answers[WHOLE].target_score != answers[part].target_score).any()
