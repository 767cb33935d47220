"""A small student that learns from the scores of a kept model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from feature_repo.errors import LongtailError
from feature_repo.events import Event
from feature_repo.log.event_log import EventLog
from tests.training.conftest import SMALL, START, VERSION, Trained, run_on, write_log
from tests.training.family_world import features_of, lives, world
from tests.training.test_gate import NOW, judged
from training import artifact, workflow
from training.artifact import TrainedModel
from training.examples.lessons import AnyExamples, make_examples
from training.examples.moments import history_inputs, moments_at
from training.examples.preparation import Preparation
from training.examples.split import split
from training.export.saved_model import export
from training.export.serving_contract import read_contract
from training.fitting import runs
from training.fitting.batches import make_batches
from training.fitting.checkpoint import Checkpoints
from training.fitting.distillation import CHECKPOINTS, Phase, Teachers, find_teachers
from training.fitting.fitting import Fit, fit
from training.fitting.progress import Epoch, Progress
from training.fitting.untrained import new_recommender
from training.log.popularity import POPULARITY_FEATURES
from training.model import Recommender
from training.network.blocks import FAR_BELOW
from training.network.teacher import Teacher
from training.release import dossier
from training.reports import reporting
from training.settings import TrainingSettings
from training.vocabulary import FIRST_ROW

LIVES = (6, 1, 14, 51, 3, 20, 20)
STUDENT = {"embedding_size": 8, "num_heads": 1, "learning_rate": 1e-2, "dropout": 0.0, "batch_rows": 4}
TEACHING = SMALL.model_copy(update={"student_embedding_size": 8, "student_num_heads": 1, "student_neighbours": 5})


def student(teacher: Recommender, prepared: Preparation, weight: float) -> Recommender:
    """After some epochs of what the teacher's rows are of."""
    settings = TrainingSettings.model_validate(STUDENT)
    examples = make_examples(prepared, features_of, settings)
    learner = new_recommender(prepared, examples, settings, epochs=15)
    learner.objective = replace(learner.objective, teacher=Teacher(recommender=teacher, temperature=1.0, weight=weight))
    learner.fit(make_batches(examples, settings), epochs=15, verbose=0, shuffle=False)
    return learner


def orders(recommender: Recommender, prepared: Preparation, head: str) -> np.ndarray:
    """The place of every item for every user of the log at its end: [users, items]."""
    users = np.arange(len(LIVES))
    moments = moments_at(prepared.fit, users, prepared.cut_us)
    rows = np.arange(FIRST_ROW, prepared.num_rows)
    inputs = history_inputs(prepared.fit, moments, prepared.tables, length=50) | {
        "user_features": features_of(users, moments.as_of_us),
        "user": np.zeros(len(users), np.int32),
        "candidate_items": np.tile(rows, (len(users), 1)).astype(np.int32),
        "candidate_popularity": np.zeros((len(users), len(rows), len(POPULARITY_FEATURES)), np.float32),
    }
    return np.argsort(np.argsort(recommender.predict_on_batch(inputs)[head], axis=1), axis=1)


@dataclass(frozen=True, kw_only=True)
class Class:
    """A teacher of random weights, so that nothing else can say its order, and who learnt from it or from labels."""

    prepared: Preparation
    teacher: Recommender
    before: list[np.ndarray]  # the teacher's weights
    student: Recommender
    alone: Recommender


@pytest.fixture(scope="module")
def taught_and_not() -> Class:
    prepared, _, teacher = world(lives(*LIVES))
    before = [np.array(variable) for variable in teacher.variables]
    learnt, alone = (student(teacher, prepared, weight) for weight in (1.0, 0.0))
    return Class(prepared=prepared, teacher=teacher, before=before, student=learnt, alone=alone)


@pytest.mark.parametrize("head", ["rank", "retrieve"])
def test_a_student_orders_items_as_its_teacher_does_and_one_of_labels_alone_does_not(
    taught_and_not: Class, head: str
) -> None:
    its, taught, alone = (
        orders(each, taught_and_not.prepared, head).ravel()
        for each in (taught_and_not.teacher, taught_and_not.student, taught_and_not.alone)
    )
    assert np.corrcoef(its, taught)[0, 1] > 0.6
    assert np.corrcoef(its, alone)[0, 1] < 0.4


def test_the_teacher_is_no_part_of_the_student_and_stays_as_it_is(taught_and_not: Class) -> None:
    teacher, learner = taught_and_not.teacher, taught_and_not.student
    assert not {id(variable) for variable in teacher.variables} & {id(variable) for variable in learner.variables}
    for one, other in zip(taught_and_not.before, teacher.variables, strict=True):
        np.testing.assert_array_equal(one, np.asarray(other))


@pytest.mark.parametrize("encoder", ["attention", "transformer", "bert"])
def test_who_scores_as_the_teacher_has_nothing_to_learn_from_it(encoder: str) -> None:
    _, examples, teacher = world(lives(*LIVES), encoder=encoder, user_prior=0.0)
    other = world(lives(*LIVES), encoder=encoder, user_prior=0.0, embedding_size=8)[2]
    inputs, labels = make_batches(examples, TrainingSettings(encoder=encoder))[0]

    def loss(recommender: Recommender, **told: float) -> float:
        of = Teacher(recommender=teacher, temperature=2.0, **told) if told else None
        recommender.objective = replace(recommender.objective, teacher=of)
        return float(recommender.compute_loss(inputs, labels, recommender(inputs), training=False))

    assert loss(teacher, weight=1.0) == pytest.approx(0.0, abs=1e-4)
    assert loss(other, weight=1.0) > 0.05
    assert loss(other, weight=0.0) == pytest.approx(loss(other), rel=1e-5)


def test_how_far_apart_two_orders_are_is_kullback_and_leiblers_divergence() -> None:
    teacher = Teacher(recommender=None, temperature=2.0, weight=0.25)  # type: ignore[arg-type]
    its, mine = np.log([[16.0, 1.0, 7.0]]), np.log([[1.0, 1.0, 7.0]])
    nothing_at_the_last = np.array([[0.0, 0.0, FAR_BELOW]], np.float32)
    found = np.asarray(teacher.divergence(mine, its, nothing_at_the_last))
    assert found.tolist() == [pytest.approx(4 * (0.8 * np.log(0.8 / 0.5) + 0.2 * np.log(0.2 / 0.5)), rel=1e-5)]
    assert np.asarray(teacher.divergence(its + 5.0, its, nothing_at_the_last)) == pytest.approx(0.0, abs=1e-5)
    assert teacher.beside(4.0, 8.0) == 5.0


def test_a_sampled_item_stands_for_as_many_as_it_was_drawn_from() -> None:
    """Four equal items, or one of them drawn at a fourth of the odds."""
    teacher = Teacher(recommender=None, temperature=3.0, weight=1.0)  # type: ignore[arg-type]
    its, mine = np.array([[2.0, 0.5, 0.5, 0.5, 0.5]]), np.array([[0.0, 1.0, 1.0, 1.0, 1.0]])
    whole = teacher.divergence(mine, its, np.zeros((1, 5), np.float32))
    drawn = teacher.divergence(mine[:, :2], its[:, :2], np.array([[0.0, np.log(4.0)]], np.float32))
    assert np.asarray(drawn) == pytest.approx(np.asarray(whole), rel=1e-5)


@dataclass(frozen=True, kw_only=True)
class Noting(Teachers):
    """Notes what it teaches, and how it would score."""

    taught: list[tuple[Phase, int, np.ndarray]] = field(default_factory=list)

    def teach(self, phase: Phase, student: Recommender, prepared: Preparation, examples: AnyExamples) -> None:
        super().teach(phase, student, prepared, examples)
        assert student.objective.teacher is not None
        weights = np.asarray(student.objective.teacher.recommender.shared_weights)
        self.taught.append((phase, prepared.cut_us, weights))


@dataclass(frozen=True, kw_only=True)
class Taught:
    """A teacher's folder, in which its student was trained after it."""

    run: runs.Run  # the teacher's
    learner: runs.Run  # the student's, of two epochs
    folder: Path
    teacher: TrainedModel
    student: TrainedModel
    noted: Sequence[tuple[Phase, int, np.ndarray]]  # as Noting has them
    begun: Path  # the student's search as it was after an epoch


@pytest.fixture(scope="module")
def taught(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    folder = tmp_path_factory.mktemp("taught") / "training"
    shutil.copytree(trained.folder / "training", folder)
    run = trained.run.with_settings(TEACHING)
    found = workflow.student_run(run, folder)
    noted = Noting(**vars(found.teachers))
    learner = replace(found, teachers=noted, settings=found.settings.model_copy(update={"max_epochs": 2}))
    begun = folder.with_name("begun")

    def keep_the_first(_: Epoch) -> None:
        if not begun.exists():
            shutil.copytree(folder / "checkpoints" / CHECKPOINTS / "search", begun)

    progress = Progress(on_epoch=keep_the_first)
    learnt = workflow.train(learner, folder, version=VERSION + 1, resume=False, progress=progress)
    return Taught(
        run=run,
        learner=learner,
        folder=folder,
        teacher=trained.model,
        student=learnt,
        noted=tuple(noted.taught),
        begun=begun,
    )


def test_a_student_is_smaller_and_says_whose_it_is(taught: Taught) -> None:
    kept = artifact.load(taught.folder / workflow.MODEL_FOLDER)
    assert (kept.shape.embedding_size, kept.shape.num_heads, kept.blend.neighbours.rows.shape[2]) == (8, 1, 5)
    assert kept.teacher == {
        "version": VERSION,
        "embedding_size": SMALL.embedding_size,
        "num_heads": SMALL.num_heads,
        "neighbours": SMALL.neighbours,
        "temperature": SMALL.distil_temperature,
        "weight": SMALL.distil_weight,
    }
    assert taught.teacher.teacher is None


def test_a_student_is_evaluated_exported_and_released_as_any_other(taught: Taught, tmp_path: Path) -> None:
    told = reporting.evaluate(taught.run, taught.folder, split="temporal", k=10, resume=False, progress=Progress())
    assert f"A student of {VERSION}" in told.page.read_text()
    assert told.report["settings"]["embedding_size"] == 8
    exported = export(taught.student, tmp_path, retrieve_k=8, candidate_buckets=(4,), metrics={})
    assert read_contract(exported)["embedding_size"] == 8
    papers = dossier.papers(exported, told.report, judged({}), override=None, now=NOW)
    assert f"A student of version {VERSION} (width 16, 2 heads, 128 neighbours)" in papers["model_card.md"]


def test_the_teacher_teaches_again_and_comes_back_without_a_training(taught: Taught) -> None:
    again = workflow.student_run(taught.run, taught.folder)
    assert again.teachers is not None
    assert again.teachers.version == VERSION
    epochs: list[object] = []
    for run, model in ((taught.learner, taught.student), (taught.run, taught.teacher)):
        progress = Progress(on_epoch=epochs.append)
        resumed = workflow.train(run, taught.folder, version=model.version, resume=True, progress=progress)
        for one, other in zip(model.recommender.get_weights(), resumed.recommender.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    assert epochs == []


def test_each_phase_learns_from_the_teachers_same_phase_before_the_same_cut(taught: Taught) -> None:
    made = split(taught.run.log, "temporal", taught.run.settings)
    assert [(phase, cut_us) for phase, cut_us, _ in taught.noted] == [
        ("search", made.validation.cut_us),
        ("refit", made.test.cut_us),
    ]
    searched, refitted = (weights for _, _, weights in taught.noted)
    assert not np.array_equal(searched, refitted)
    for phase, weights in (("search", searched), ("refit", refitted)):
        with np.load(taught.folder / "checkpoints" / phase / "best.npz") as kept:
            assert any(np.array_equal(values, weights) for values in kept.values())


def resumed(run: runs.Run, folder: Path, *, epochs: int) -> Fit:
    prepared = run.prepared(split(run.log, "temporal", run.settings).validation)
    examples = make_examples(prepared, run.user_features, run.settings)
    learner = new_recommender(prepared, examples, run.settings, epochs=2)
    assert run.teachers is not None
    run.teachers.teach("search", learner, prepared, examples)
    checkpoints = Checkpoints(directory=folder, fingerprint=run.fingerprint("search"))
    return fit(learner, examples, run.settings, epochs=epochs, checkpoints=checkpoints, resume=True)


def test_a_students_run_that_was_interrupted_goes_on_as_if_it_had_not_been(taught: Taught, tmp_path: Path) -> None:
    found = resumed(taught.learner, Path(shutil.copytree(taught.begun, tmp_path / "begun")), epochs=2)
    assert [epoch.epoch for epoch in found.epochs] == [1, 2]
    with np.load(taught.folder / "checkpoints" / CHECKPOINTS / "search" / "last.npz") as whole:
        for place, variable in enumerate(found.recommender.variables):
            np.testing.assert_allclose(np.asarray(variable), whole[f"model_{place}"], atol=1e-4)


@pytest.mark.parametrize(
    "changed", [{"distil_weight": 0.1}, {"distil_temperature": 9.0}, {"student_embedding_size": 4}]
)
def test_another_student_of_the_same_teacher_does_not_go_on_with_this_one(
    taught: Taught, changed: dict[str, float]
) -> None:
    other = taught.run.with_settings(taught.run.settings.model_copy(update=changed))
    prints = {workflow.student_run(run, taught.folder).fingerprint("search") for run in (taught.run, other)}
    assert len(prints | {taught.run.fingerprint("search")}) == 3


def test_a_student_of_another_log_is_refused(taught: Taught, tmp_path: Path) -> None:
    log = EventLog(write_log(tmp_path / "events", 0.95))
    late = START + timedelta(days=200)
    log.append([Event(event_id="late", user_id="user-1", item_id="item-1-1", event_type="view", event_time=late)])
    with pytest.raises(LongtailError, match=r"another event log.*`longtail train`"):
        workflow.student_run(run_on(tmp_path / "events", TEACHING), taught.folder)


def left(folder: Path, phase: str, fingerprint: str, *, done: int, best: int) -> None:
    (folder / phase).mkdir()
    state = {"fingerprint": fingerprint, "done_epochs": done, "best_epoch": best}
    np.savez(folder / phase / "last.npz", state=json.dumps(state))


def printed(settings: TrainingSettings, phase: str) -> str:
    return f"{phase}, {settings.max_epochs} epochs"


@pytest.mark.parametrize("epochs", [SMALL.max_epochs, SMALL.warm_epochs], ids=["from scratch", "warm"])
def test_a_finished_training_teaches(tmp_path: Path, epochs: int) -> None:
    left(tmp_path, "search", f"search, {epochs} epochs", done=4, best=3)
    left(tmp_path, "refit", f"refit-3, {epochs} epochs", done=3, best=3)
    assert find_teachers(tmp_path, VERSION, SMALL, printed).settings.max_epochs == epochs


@pytest.mark.parametrize("refit_done", [None, 2], ids=["no refit", "half a refit"])
def test_a_training_that_was_interrupted_does_not_teach(tmp_path: Path, refit_done: int | None) -> None:
    left(tmp_path, "search", "search, 18 epochs", done=4, best=3)
    if refit_done is not None:
        left(tmp_path, "refit", "refit-3, 18 epochs", done=refit_done, best=refit_done)
    with pytest.raises(LongtailError, match=r"no finished training .* `longtail train` \(with --resume"):
        find_teachers(tmp_path, VERSION, SMALL, printed)


@pytest.mark.parametrize("phase", ["search", "refit"])
def test_a_training_with_other_settings_does_not_teach(tmp_path: Path, phase: str) -> None:
    left(tmp_path, "search", "other" if phase == "search" else "search, 18 epochs", done=4, best=3)
    left(tmp_path, "refit", "other" if phase == "refit" else "refit-3, 18 epochs", done=3, best=3)
    with pytest.raises(LongtailError, match="of other settings"):
        find_teachers(tmp_path, VERSION, SMALL, printed)


def test_without_any_model_it_says_what_to_do_first(tmp_path: Path) -> None:
    events = ["--state-dir", str(tmp_path)]
    write_log(tmp_path / "events", 0.95)
    said = CliRunner().invoke(app, [*events, "train", "--distil"])
    assert said.exit_code == 1
    assert "run `longtail train` first" in str(said.exception or said.output)


def test_a_student_does_not_start_warm(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["--state-dir", str(tmp_path), "train", "--distil", "--warm"])
    assert said.exit_code == 2
    assert "without --warm" in " ".join(said.output.replace("│", " ").split())
