"""The steps behind `train`: what happens in which order, and what is kept where."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
from pydantic import ValidationError

from feature_repo.errors import LongtailError
from feature_repo.log.extent import Extent
from training import artifact
from training.artifact import TrainedModel
from training.blend.blend import Blend, popularity_windows
from training.blend.neighbours import neighbours_of
from training.examples.preparation import Preparation
from training.examples.split import Split, SplitName, split, whole
from training.fitting import warm_start
from training.fitting.blend_fitting import fit_blend
from training.fitting.checkpoint import forget
from training.fitting.distillation import CHECKPOINTS, find_teachers, student_settings
from training.fitting.phases import Phases
from training.fitting.progress import Progress
from training.fitting.runs import NO_IDS, Run
from training.model import Recommender
from training.settings import TrainingSettings
from training.vocabulary import FIRST_ROW, UNKNOWN

MODEL_FOLDER = "model"
REFITTED_FOLDER = "refitted"  # the same version, of the whole log
LOG = "log.json"  # among the checkpoints: how much of the event log they are of
WHOLE_LOG = "whole_log.json"  # the same of the refit


def student_run(run: Run, folder: Path) -> Run:
    """The same log, for a small student of the model that was trained in this folder with these settings.

    Raises LongtailError when there is no such model, or it is of another log or other settings.
    """
    teachers = find_teachers(
        _checkpoints(folder),
        artifact.teacher_version(folder / MODEL_FOLDER),
        run.settings,
        lambda settings, phase: run.with_settings(settings).fingerprint(phase),
    )
    return replace(run, settings=student_settings(run.settings), teachers=teachers)


def train(
    run: Run, folder: Path, *, version: int, resume: bool, warm: bool = False, progress: Progress
) -> TrainedModel:
    """The temporal split: search, calibrate, refit, keep. The test window is not looked at.

    With `warm` from the weights of the last training in this folder, for `warm_epochs` at most, where there was one.
    """
    made = split(run.log, "temporal", run.settings)
    checkpoints = _checkpoints(folder) if run.teachers is None else _checkpoints(folder) / CHECKPOINTS
    if warm and not (warm := warm_start.is_kept(checkpoints / "refit")):  # written when a training is finished
        progress.on_note("from scratch, for training.max_epochs at most: no finished training is kept")
    if warm:
        run = run.with_settings(run.settings.model_copy(update={"max_epochs": run.settings.warm_epochs}))
    learnt = learn(run, made, checkpoints, resume=resume, warm=warm, refit=True, progress=progress)
    model = _as_trained(run, learnt, version, is_warm=warm)
    shutil.rmtree(folder / REFITTED_FOLDER, ignore_errors=True)  # of another version from now on
    artifact.save(model, folder / MODEL_FOLDER)
    return model


def refit(run: Run, folder: Path, *, resume: bool, progress: Progress) -> TrainedModel:
    """The kept model once more, fitted on the whole log as it was fitted before the test: the version to be served.

    Epochs and the blend's weights are those that were measured; `run` has the model's `kept_settings`.
    Raises LongtailError where there is no model, or it is a student.
    """
    measured = artifact.load(folder / MODEL_FOLDER)
    if measured.teacher is not None:
        raise LongtailError(
            f"model {measured.version} is a student of {measured.teacher['version']}, whose teacher knows nothing of "
            "the test: it is served as it was measured; run `longtail export`"
        )
    checkpoints = _checkpoints(folder)
    if not resume:
        forget(checkpoints / "whole")
        run.reader.extent.write(checkpoints / WHOLE_LOG)
    phases = Phases(run=run, folder=checkpoints, resume=resume, warm=measured.is_warm, progress=progress)
    recommender, prepared = phases.refit(whole(run.log), measured.best_epoch, "whole")
    learnt = Learnt(
        recommender=_finished(recommender, prepared),
        blend=_blend_at_cut(run, measured.blend, prepared),
        prepared=prepared,
        curve=measured.curve,
        best_epoch=measured.best_epoch,
    )
    model = _as_trained(run, learnt, measured.version, is_warm=measured.is_warm)
    artifact.save(model, folder / REFITTED_FOLDER)
    return model


def is_refitted(folder: Path) -> bool:
    """Whether the kept model was fitted on the whole log since it was trained."""
    return (folder / REFITTED_FOLDER).exists()


def check_exported(folder: Path, version: int, *, is_refitted_export: bool) -> None:
    """Raises LongtailError where a version was refitted after its export: its users' own weights are others now."""
    if is_refitted(folder) and not is_refitted_export and artifact.version_of(folder / REFITTED_FOLDER) == version:
        raise LongtailError(
            f"version {version} was refitted after it was exported, and its users' own weights are others now; run "
            "`longtail export` again, then publish"
        )


def to_serve(folder: Path) -> Path:
    """Where the model lies that is exported."""
    return folder / (REFITTED_FOLDER if is_refitted(folder) else MODEL_FOLDER)


def kept_settings(folder: Path) -> TrainingSettings:
    """What the kept model was trained with. Raises LongtailError without a model, or where they are of another time."""
    kept = artifact.settings_of(folder / MODEL_FOLDER)
    try:
        return TrainingSettings.model_validate(kept)
    except ValidationError as error:
        names = ", ".join(str(one["loc"][0]) for one in error.errors())
        raise LongtailError(
            f"the model in {folder / MODEL_FOLDER} was trained with settings that this version of longtail does not "
            f"take: {names}; run `longtail train` again"
        ) from error


def kept_log(folder: Path) -> Extent | None:
    """The log that the kept model is asked about, however much came in since. Raises LongtailError without a model."""
    return artifact.log_read(folder / MODEL_FOLDER)


def interrupted_log(folder: Path, split_name: SplitName = "temporal") -> Extent | None:
    """The log that an interrupted run goes on with; None when there was none."""
    return Extent.read(_checkpoints(folder, split_name) / LOG)


def interrupted_refit_log(folder: Path) -> Extent | None:
    """The same of an interrupted `refit`."""
    return Extent.read(_checkpoints(folder) / WHOLE_LOG)


def _checkpoints(folder: Path, split_name: SplitName = "temporal") -> Path:
    every = folder / "checkpoints"
    return every if split_name == "temporal" else every / split_name


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A recommender and its blend with the rows they speak."""

    recommender: Recommender
    blend: Blend
    prepared: Preparation
    curve: list[dict[str, Any]]  # the epochs of the search on validation
    best_epoch: int


def learn(
    run: Run, made: Split, folder: Path, *, resume: bool, warm: bool = False, refit: bool, progress: Progress
) -> Learnt:
    """Searches the number of epochs and the blend on validation, then refits on all that may be learnt from.

    Without `refit` the searched model itself is the result: leave-one-out fits on train only.
    """
    if not resume:
        for phase in ("search", "refit"):  # else --resume would meet one of the training before
            forget(folder / phase)
        run.reader.extent.write(folder / LOG)
    phases = Phases(run=run, folder=folder, resume=resume, warm=warm, progress=progress)
    searched = phases.search(made.validation)
    recommender, prepared = searched.fit.recommender, searched.prepared
    progress.on_phase("blend on validation", 0)
    blend = fit_blend(
        made.validation,
        prepared,
        run.evidence(prepared),
        searched.scorer,
        seed=run.settings.seed,
        most_neighbours=run.settings.neighbours,
    )
    if refit:
        recommender, prepared = phases.refit(made.test, searched.fit.best_epoch)
        blend = _blend_at_cut(run, blend, prepared)
    return Learnt(
        recommender=_finished(recommender, prepared),
        blend=blend,
        prepared=prepared,
        curve=[epoch.as_json() for epoch in searched.fit.epochs],
        best_epoch=searched.fit.best_epoch,
    )


def _finished(recommender: Recommender, prepared: Preparation) -> Recommender:
    """As it is served: one vector per item, what is unknown settled."""
    rarity = np.bincount(prepared.tables.item_row[prepared.fit.item], minlength=prepared.num_rows)[FIRST_ROW:]
    recommender = artifact.folded(recommender, prepared.terms, rarity)
    artifact.settle_unknown_item(recommender)
    artifact.settle_nobody(recommender)
    return recommender


def _blend_at_cut(run: Run, blend: Blend, prepared: Preparation) -> Blend:
    """The blend for serving: of the end of the training window, with the catalogue's items that nobody has met yet."""
    cut_us = np.array([prepared.cut_us])
    popularity = popularity_windows(prepared.fit, prepared.tables.item_row, prepared.num_rows, cut_us).features[-1]
    cold_ids = prepared.terms.cold_ids if prepared.terms else NO_IDS
    none_met = np.repeat(popularity[UNKNOWN, None], len(cold_ids), axis=0)
    neighbours = neighbours_of(run.evidence(prepared, cold_ids), run.settings.neighbours)
    return blend.at(neighbours, np.concatenate([popularity, none_met]))


def _as_trained(run: Run, learnt: Learnt, version: int, *, is_warm: bool) -> TrainedModel:
    prepared = learnt.prepared
    cold_ids = prepared.terms.cold_ids if prepared.terms else NO_IDS
    popularity = prepared.popularity.features[-1]
    none_met = np.repeat(popularity[UNKNOWN, None], len(cold_ids), axis=0)
    return TrainedModel(
        version=version,
        recommender=learnt.recommender,
        item_ids=np.concatenate([run.log.item_ids[prepared.known_items], cold_ids]),
        event_types=run.log.event_types,
        user_ids=run.log.user_ids,
        popularity=np.concatenate([popularity, none_met]),
        blend=learnt.blend,
        window_us=(int(prepared.fit.time_us.min()), prepared.cut_us),
        curve=learnt.curve,
        best_epoch=learnt.best_epoch,
        settings=run.settings.model_dump(mode="json"),
        fill_values=learnt.recommender.fill_values,
        teacher=None if run.teachers is None else run.teachers.as_json(),
        log=run.reader.extent,
        log_end_us=int(run.log.time_us.max()) + 1,
        is_warm=is_warm,
    )


def validation_score(run: Run, folder: Path, *, progress: Progress) -> float:
    """The best validation NDCG@10 of the search alone: what settings are compared by. The test is not asked."""
    keras.utils.clear_session()  # a graph per configuration would fill the memory
    question = split(run.log, "temporal", run.settings).validation
    searched = Phases(run=run, folder=folder, resume=False, progress=progress).search(question)
    return max(epoch.validation_ndcg or 0.0 for epoch in searched.fit.epochs)


def new_version(now: datetime) -> int:
    """YYYYMMDDHHMMSS of a UTC time.

    >>> new_version(datetime(2026, 1, 2, 3, 4, 5))
    20260102030405
    """
    return int(now.strftime("%Y%m%d%H%M%S"))
