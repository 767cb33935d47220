"""That it learns where there is something to learn and not where there is nothing; and honest splits."""

from __future__ import annotations

import doctest
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from feature_repo.errors import LongtailError
from feature_repo.events import Event
from feature_repo.log.event_log import EventLog
from tests.training.conftest import SMALL, START, VERSION, Trained, run_on, write_log
from training import vocabulary, workflow
from training.artifact import TrainedModel
from training.evaluation import metrics
from training.examples.lessons import make_examples
from training.examples.preparation import prepare
from training.examples.split import split
from training.fitting import batches, config_file
from training.fitting.checkpoint import Checkpoints
from training.fitting.fitting import Fit, fit
from training.fitting.progress import Epoch, OnEpoch, Progress
from training.fitting.runs import Run
from training.fitting.untrained import new_recommender
from training.log import engagements, popularity
from training.model import create_model
from training.reports import examination, reporting
from training.settings import TrainingSettings


def answers(run: Run, model: TrainedModel) -> dict[str, dict[str, float]]:
    """Means over users by scorer and metric, on the test."""
    _, assessment = examination.evaluate(run, model)
    return {
        scorer: {metric: float(np.nanmean(values)) for metric, values in answer.per_user.items()}
        for scorer, answer in assessment.answers.items()
    }


def test_it_learns_where_tastes_exist(trained: Trained) -> None:
    measured = answers(trained.run, trained.model)
    assert measured["longtail"]["ndcg"] > 2 * measured["popularity"]["ndcg"]
    assert measured["longtail"]["auc"] > 0.85


def test_it_does_not_learn_from_noise(tmp_path: Path) -> None:
    run = run_on(write_log(tmp_path / "events", 0.0), SMALL.model_copy(update={"max_epochs": 6}))
    model = workflow.train(run, tmp_path, version=VERSION, resume=False, progress=Progress())
    measured = answers(run, model)
    assert measured["longtail"]["auc"] < 0.6
    assert measured["longtail"]["ndcg"] < measured["popularity"]["ndcg"] + 0.1


def test_nothing_that_is_learnt_from_lies_after_the_cut(trained: Trained) -> None:
    for question in (made := split(trained.run.log, "temporal", SMALL)).validation, made.test:
        assert question.fit.time_us.max() < question.cut_us
        assert (question.target_time_us >= question.cut_us).all()
        existed = set(question.fit.item.tolist())
        assert set(question.target_item.tolist()) <= existed
        met = set(zip(question.fit.user.tolist(), question.fit.item.tolist(), strict=True))
        targets = zip(question.moments.user[question.target_row].tolist(), question.target_item.tolist(), strict=True)
        assert not met & set(targets)
    assert made.validation.cut_us < made.test.cut_us


def test_what_happens_after_a_moment_does_not_change_its_features(trained: Trained) -> None:
    log, reader = trained.run.log, trained.run.reader
    user_ids = log.user_ids[:10]
    cut_s = int(np.median(log.time_us)) // 1_000_000
    as_of_us = np.full(len(user_ids), cut_s * 1_000_000)
    past = replace(reader, events=reader.events.filter(reader.events.event_time.epoch_seconds() < cut_s))
    np.testing.assert_array_equal(
        past.user_columns(user_ids, as_of_us).features, reader.user_columns(user_ids, as_of_us).features
    )


def test_leave_one_out_asks_for_the_last_new_item(trained: Trained) -> None:
    made = split(trained.run.log, "leave-one-out", SMALL)
    assert len(made.test.target_item) == len(made.test.moments)
    history = made.test.history
    for row, moment_end in enumerate(made.test.moments.end):
        assert made.test.target_time_us[row] >= history.time_us[moment_end - 1]


def fitted(
    trained: Trained,
    folder: Path,
    settings: TrainingSettings,
    *,
    epochs: int,
    resume: bool = False,
    on_epoch: OnEpoch = lambda epoch: None,
) -> Fit:
    question = split(trained.run.log, "temporal", settings).validation
    prepared = prepare(question.fit, question.cut_us)
    examples = make_examples(prepared, trained.run.user_features, settings)
    recommender = new_recommender(prepared, examples, settings, epochs=3)
    checkpoints = Checkpoints(directory=folder, fingerprint="one")
    return fit(
        recommender, examples, settings, epochs=epochs, checkpoints=checkpoints, resume=resume, on_epoch=on_epoch
    )


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A run of three epochs, and its folder as it was after the first."""

    fit: Fit
    after_one: Path


@pytest.fixture(scope="module")
def whole(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    after_one = folder / "after one"

    def keep_the_first(epoch: Epoch) -> None:
        if epoch.epoch == 1:
            shutil.copytree(folder / "run", after_one)

    return Whole(fit=fitted(trained, folder / "run", SMALL, epochs=3, on_epoch=keep_the_first), after_one=after_one)


@pytest.fixture
def interrupted(whole: Whole, tmp_path: Path) -> Path:
    """Left by the run when it had one epoch; a copy that a test may change."""
    return Path(shutil.copytree(whole.after_one, tmp_path / "interrupted"))


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(trained: Trained, whole: Whole, interrupted: Path) -> None:
    resumed = fitted(trained, interrupted, SMALL, epochs=3, resume=True)
    assert [epoch.epoch for epoch in resumed.epochs] == [1, 2, 3]
    for one, other in zip(whole.fit.recommender.get_weights(), resumed.recommender.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_checkpoints_of_another_run_are_not_resumed(whole: Whole, interrupted: Path) -> None:
    with pytest.raises(LongtailError, match="resume"):
        Checkpoints(directory=interrupted, fingerprint="another").restore(whole.fit.recommender)


def test_a_loss_that_is_no_number_stops_and_keeps_what_was_good(trained: Trained, interrupted: Path) -> None:
    kept = (interrupted / "last.npz").read_bytes()
    with pytest.raises(LongtailError, match="no longer a finite number"):
        fitted(trained, interrupted, SMALL.model_copy(update={"learning_rate": 1e30}), epochs=3, resume=True)
    assert (interrupted / "last.npz").read_bytes() == kept


def test_a_strong_prior_keeps_users_at_the_shared_weights(trained: Trained, whole: Whole, tmp_path: Path) -> None:
    def size(found: Fit) -> float:
        return float(np.abs(found.recommender.user_weights.get_weights()[0]).mean())

    strong = fitted(trained, tmp_path, SMALL.model_copy(update={"user_prior": 1e4}), epochs=3)
    assert size(strong) < size(whole.fit) / 2


def test_the_papers_constructor_has_its_defaults_and_trains() -> None:
    model = create_model(num_users=10, num_items=20, embedding_size=16)
    assert model.model_shape.num_heads == 8
    assert model.model_shape.num_items == 20


@pytest.mark.parametrize(
    ("users", "items", "events"), [(1, 1, 1), (1, 5, 30), (30, 1, 3)], ids=["one event", "one user", "one item"]
)
def test_a_log_too_small_says_what_is_missing(tmp_path: Path, users: int, items: int, events: int) -> None:
    log = [
        Event(
            event_id=f"{user}-{step}",
            user_id=f"user-{user}",
            item_id=f"item-{step % items}",
            event_type="view",
            event_time=START,
        )
        for user in range(users)
        for step in range(events)
    ]
    EventLog(tmp_path / "events").append(log)
    with pytest.raises(LongtailError, match=r"users?|items?"):
        run = run_on(tmp_path / "events")
        workflow.train(run, tmp_path, version=VERSION, resume=False, progress=Progress())


def test_an_empty_log_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(LongtailError):
        workflow.train(run_on(tmp_path / "events"), tmp_path, version=VERSION, resume=False, progress=Progress())


@pytest.mark.parametrize(
    "module", [batches, config_file, examination, metrics, engagements, popularity, vocabulary, workflow]
)
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    assert doctest.testmod(module, extraglobs={}).failed == 0  # type: ignore[arg-type]


def test_the_report_is_a_page_of_its_own_and_shows_values(trained: Trained, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.folder / "training", tmp_path / "training"))
    result = reporting.evaluate(trained.run, folder, split="temporal", k=10, resume=False, progress=Progress())
    page = Path(result.page).read_text()
    users = pd.read_parquet(Path(result.page).with_name(reporting.PER_USER))
    tail = result.report["slices"]["tail"]
    assert users["in: tail"].sum() == tail["users"]
    assert users["ndcg"][users["in: tail"]].mean() == pytest.approx(tail["scorers"]["longtail"]["ndcg"]["mean"])
    assert f"{result.report['counts']['items']} items" in page
    assert "object at 0x" not in page
    assert 'src="http' not in page
