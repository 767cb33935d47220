"""The steps behind `train` and `evaluate`: what happens in which order, and what is kept where."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import keras
import numpy as np
import pandas as pd

from feature_repo.errors import LongtailError
from feature_repo.settings import FeatureSettings
from training import artifact, warm_start
from training.artifact import TrainedModel
from training.assessment import MODEL, RETRIEVAL, Assessment, assess, peer_scorers
from training.attributes import item_vectors, items_without
from training.blend import Blend, popularity_windows
from training.blend_fitting import fit_blend
from training.candidates import candidate_frame
from training.checkpoint import Checkpoints
from training.engagements import Engagements
from training.evaluation import make_sheet, validation_ndcg
from training.evidence import Evidence, learn_evidence
from training.examples import Moments
from training.fitting import (
    Epoch,
    Fit,
    OnEpoch,
    OnStep,
    Preparation,
    fit,
    make_examples,
    new_recommender,
    prepare,
)
from training.items import ItemTerms, item_terms
from training.log_reader import LogReader, UserColumns, open_log
from training.model import Recommender
from training.neighbours import neighbours_of
from training.scoring import BlendScorer, ModelScorer, RetrievalScorer, Scorer, model_scorer
from training.settings import NOT_LEARNING, TrainingSettings
from training.shown import Refused, read_refused
from training.split import Question, Split, split
from training.vocabulary import FIRST_ROW, UNKNOWN

MODEL_FOLDER = "model"

MakeScorer = Callable[[Question, np.ndarray, np.ndarray], Scorer]
"""(question, user features [moments, F], ids of the item rows from FIRST_ROW on) → who else is asked."""
NO_IDS: Final = np.array([], object)
NOBODY: Final[Mapping[str, MakeScorer]] = {}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How a run tells what it does; the default is silent. The first word of a phase's name stands for it."""

    on_phase: Callable[[str, int], None] = lambda name, epochs: None
    on_epoch: OnEpoch = lambda epoch: None
    on_step: OnStep = lambda done, total: None
    on_note: Callable[[str], None] = lambda note: None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One log and one set of settings."""

    reader: LogReader
    log: Engagements
    settings: TrainingSettings
    catalogue: Path | None = None  # items.parquet
    refused: Refused | None = None  # of training.impressions

    def with_settings(self, settings: TrainingSettings) -> Run:
        """The same log, learnt from in another way."""
        return replace(self, settings=settings)

    def evidence(self, prepared: Preparation, cold_ids: np.ndarray = NO_IDS) -> Evidence:
        """What is learnt before the cut; the content of items that nobody has met follows the others."""
        ids = np.concatenate([self.log.item_ids[prepared.known_items], cold_ids])
        vectors = item_vectors(self.catalogue, ids).values
        return learn_evidence(prepared.fit, prepared.tables.item_row, prepared.num_rows, vectors)

    def prepared(self, question: Question) -> Preparation:
        """What a model learns from before a question's cut, the catalogue included."""
        return prepare(question.fit, question.cut_us, self._terms, self.refused)

    def _terms(self, known_items: np.ndarray) -> ItemTerms | None:
        cold = items_without(self.catalogue, self.log.item_ids[known_items])
        said = item_vectors(self.catalogue, np.concatenate([self.log.item_ids[known_items], cold]))
        most = self.settings.terms_per_item
        return item_terms(said.values, said.terms, cold, most=most) if most and len(said.terms) else None

    def user_columns(self, moments: Moments) -> UserColumns:
        return self.reader.user_columns(self.log.user_ids[moments.user], moments.as_of_us)

    def user_features(self, user: np.ndarray, as_of_us: np.ndarray) -> np.ndarray:
        return self.reader.user_columns(self.log.user_ids[user], as_of_us).features

    def names(self, prepared: Preparation) -> warm_start.Names:
        return warm_start.Names(
            item_ids=self.log.item_ids[prepared.known_items].astype(str),
            event_types=self.log.event_types.astype(str),
            terms=prepared.terms.names if prepared.terms else np.array([], str),
            cut_us=prepared.cut_us,
        )

    def fingerprint(self, phase: str) -> str:
        """Of everything that decides the run's numbers."""
        settings = self.settings.model_dump_json(exclude=set(NOT_LEARNING))
        digest = hashlib.sha256(f"{artifact.FORMAT} {settings} {self.log_fingerprint()}".encode())
        return f"{phase}-{digest.hexdigest()[:16]}"

    def log_fingerprint(self) -> str:
        """Of what is learnt from: the log, the catalogue and the impressions."""
        digest = hashlib.sha256()
        if self.refused is not None:
            for values in (self.refused.user, self.refused.item, self.refused.time_us, self.refused.weight):
                digest.update(np.ascontiguousarray(values).tobytes())
        if self.catalogue is not None and self.catalogue.exists():
            digest.update(self.catalogue.read_bytes())
        for values in (self.log.user, self.log.item, self.log.event_type, self.log.time_us):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A recommender and its blend with the rows they speak."""

    recommender: Recommender
    blend: Blend
    prepared: Preparation
    curve: list[Epoch]  # of the search on validation
    best_epoch: int


def start(events: Path, features: FeatureSettings, settings: TrainingSettings, *, catalogue: Path | None = None) -> Run:
    """Reads the log and the impressions; `catalogue` is the file of the items, if there is one."""
    reader = open_log(events, features)
    log = reader.engagements()
    refused = None if settings.impressions is None else read_refused(settings.impressions, log)
    return Run(reader=reader, log=log, settings=settings, catalogue=catalogue, refused=refused)


def learn(
    run: Run, made: Split, folder: Path, *, resume: bool, warm: bool = False, refit: bool, progress: Progress
) -> Learnt:
    """Searches the number of epochs and the blend on validation, then refits on all that may be learnt from.

    Without `refit` the searched model itself is the result: leave-one-out fits on train only.
    """
    searched, prepared, scorer = _search(run, made.validation, folder, resume=resume, warm=warm, progress=progress)
    progress.on_phase("blend on validation", 0)
    blend = fit_blend(made.validation, prepared, run.evidence(prepared), scorer, seed=run.settings.seed)
    recommender = searched.recommender
    if refit:
        recommender, prepared = _refit(
            run, made.test, folder, searched.best_epoch, resume=resume, warm=warm, progress=progress
        )
        blend = _blend_at_cut(run, blend, prepared)
    rarity = np.bincount(prepared.tables.item_row[prepared.fit.item], minlength=prepared.num_rows)[FIRST_ROW:]
    recommender = artifact.folded(recommender, prepared.terms, rarity)
    artifact.settle_unknown_item(recommender)
    artifact.settle_nobody(recommender)
    return Learnt(
        recommender=recommender,
        blend=blend,
        prepared=prepared,
        curve=searched.epochs,
        best_epoch=searched.best_epoch,
    )


def _blend_at_cut(run: Run, blend: Blend, prepared: Preparation) -> Blend:
    """The blend for serving: of the end of the training window, with the catalogue's items that nobody has met yet."""
    cut_us = np.array([prepared.cut_us])
    popularity = popularity_windows(prepared.fit, prepared.tables.item_row, prepared.num_rows, cut_us).features[-1]
    cold_ids = prepared.terms.cold_ids if prepared.terms else NO_IDS
    none_met = np.repeat(popularity[UNKNOWN, None], len(cold_ids), axis=0)
    return blend.at(neighbours_of(run.evidence(prepared, cold_ids)), np.concatenate([popularity, none_met]))


def _search(
    run: Run, question: Question, folder: Path, *, resume: bool, warm: bool = False, progress: Progress
) -> tuple[Fit, Preparation, ModelScorer]:
    settings = run.settings
    prepared = run.prepared(question)
    examples = make_examples(prepared, run.user_features, settings)
    recommender = new_recommender(prepared, examples, settings, settings.max_epochs)
    scorer = _scorer(run, question, prepared, recommender)
    sheet = make_sheet(question, prepared.tables.item_row, prepared.num_rows)
    checkpoints = Checkpoints(directory=folder / "search", fingerprint=run.fingerprint("search"))
    if warm:
        progress.on_note(f"search {warm_start.start_from(checkpoints.directory, recommender, run.names(prepared))}")
    progress.on_phase("search on validation", settings.max_epochs)
    fitted = fit(
        recommender,
        examples,
        settings,
        epochs=settings.max_epochs,
        checkpoints=checkpoints,
        resume=resume,
        validate=validation_ndcg(sheet, scorer if settings.encoder == "attention" else RetrievalScorer(model=scorer)),
        on_epoch=progress.on_epoch,
        on_step=progress.on_step,
    )
    warm_start.keep(checkpoints.directory, recommender, run.names(prepared))
    return fitted, prepared, scorer


def _refit(
    run: Run, question: Question, folder: Path, epochs: int, *, resume: bool, warm: bool, progress: Progress
) -> tuple[Recommender, Preparation]:
    settings = run.settings
    prepared = run.prepared(question)
    examples = make_examples(prepared, run.user_features, settings)
    recommender = new_recommender(prepared, examples, settings, settings.max_epochs)
    checkpoints = Checkpoints(directory=folder / "refit", fingerprint=run.fingerprint(f"refit-{epochs}"))
    if warm:
        progress.on_note(f"refit {warm_start.start_from(checkpoints.directory, recommender, run.names(prepared))}")
    progress.on_phase("refit on everything before the test", epochs)
    fitted = fit(
        recommender,
        examples,
        settings,
        epochs=epochs,
        checkpoints=checkpoints,
        resume=resume,
        on_epoch=progress.on_epoch,
        on_step=progress.on_step,
    )
    warm_start.keep(checkpoints.directory, recommender, run.names(prepared))
    return fitted.recommender, prepared


def validation_score(run: Run, folder: Path, *, progress: Progress) -> float:
    """The best validation NDCG@10 of the search alone: what settings are compared by. The test is not asked."""
    keras.utils.clear_session()  # a graph per configuration would fill the memory
    question = split(run.log, "temporal", run.settings).validation
    fitted, _, _ = _search(run, question, folder, resume=False, progress=progress)
    return max(epoch.validation_ndcg or 0.0 for epoch in fitted.epochs)


def _scorer(run: Run, question: Question, prepared: Preparation, recommender: Recommender) -> ModelScorer:
    features = run.user_columns(question.moments).features
    return model_scorer(recommender, question, prepared.tables, features, prepared.popularity)


def train(
    run: Run, folder: Path, *, version: int, resume: bool, warm: bool = False, progress: Progress
) -> TrainedModel:
    """The temporal split: search, calibrate, refit, keep. The test window is not looked at.

    With `warm` from the weights of the last training in this folder, for `warm_epochs` at most.
    """
    if warm:
        run = run.with_settings(run.settings.model_copy(update={"max_epochs": run.settings.warm_epochs}))
    made = split(run.log, "temporal", run.settings)
    learnt = learn(run, made, folder / "checkpoints", resume=resume, warm=warm, refit=True, progress=progress)
    model = _as_trained(run, learnt, version)
    artifact.save(model, folder / MODEL_FOLDER)
    return model


def _as_trained(run: Run, learnt: Learnt, version: int) -> TrainedModel:
    prepared = learnt.prepared
    cold_ids = prepared.terms.cold_ids if prepared.terms else np.array([], object)
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
        curve=[epoch.as_json() for epoch in learnt.curve],
        best_epoch=learnt.best_epoch,
        settings=run.settings.model_dump(mode="json"),
        fill_values=learnt.recommender.fill_values,
    )


def evaluate(
    run: Run, model: TrainedModel, *, k: int = 10, also: Mapping[str, MakeScorer] = NOBODY
) -> tuple[Question, Assessment]:
    """Asks the kept model, and whoever is named in `also`, the test question of the split it was trained before."""
    question = _test_question(run, model)
    prepared = prepare(question.fit, question.cut_us)
    return question, _assess(run, question, prepared, model.recommender, model.blend, k=k, also=also)


def _test_question(run: Run, model: TrainedModel) -> Question:
    """Raises LongtailError when the log or the settings are no longer those that the model was trained before."""
    question = split(run.log, "temporal", run.settings).test
    if question.cut_us != model.window_us[1]:
        raise LongtailError(
            f"the model {model.version} was trained before {iso(model.window_us[1])}, but the test of this log and "
            f"these settings starts at {iso(question.cut_us)}: events came in or settings changed; "
            "run `longtail train` again"
        )
    return question


def evaluate_leave_one_out(
    run: Run, folder: Path, *, resume: bool, progress: Progress, k: int = 10
) -> tuple[Question, Assessment, Learnt]:
    """Fits a model of its own on the train part and asks it the test question."""
    made = split(run.log, "leave-one-out", run.settings)
    learnt = learn(run, made, folder / "leave-one-out", resume=resume, refit=False, progress=progress)
    return made.test, _assess(run, made.test, learnt.prepared, learnt.recommender, learnt.blend, k=k), learnt


def _assess(
    run: Run,
    question: Question,
    prepared: Preparation,
    recommender: Recommender,
    blend: Blend,
    *,
    k: int,
    also: Mapping[str, MakeScorer] = NOBODY,
) -> Assessment:
    columns = run.user_columns(question.moments)
    own = _own_scorers(question, prepared, recommender, blend, columns)
    row_items = question.fit.item_ids[prepared.known_items]
    own |= {name: make(question, columns.features, row_items) for name, make in also.items()}
    return assess(
        question,
        prepared,
        own | peer_scorers(question, prepared, run.evidence(prepared)),
        columns.state,
        settings=run.settings,
        k=k,
    )


def _own_scorers(
    question: Question, prepared: Preparation, recommender: Recommender, blend: Blend, columns: UserColumns
) -> dict[str, Scorer]:
    """What `rank` and `retrieve` answer."""
    network = model_scorer(recommender, question, prepared.tables, columns.features, prepared.popularity)
    windows = popularity_windows(prepared.fit, prepared.tables.item_row, prepared.num_rows, question.moments.as_of_us)
    met = blend.of_rows(prepared.num_rows)
    return {
        MODEL: BlendScorer(blend=met, mix=blend.rank, network=network, windows=windows),
        RETRIEVAL: BlendScorer(blend=met, mix=blend.retrieve, network=network, windows=windows),
    }


def candidates(run: Run, model: TrainedModel, *, k: int) -> pd.DataFrame:
    """The test question's `ranked_candidates`: what a policy would choose from, and what users then did."""
    question = _test_question(run, model)
    prepared = prepare(question.fit, question.cut_us)
    columns = run.user_columns(question.moments)
    scorer = _own_scorers(question, prepared, model.recommender, model.blend, columns)[MODEL]
    return candidate_frame(question, prepared, scorer, columns.state, k=k)


def assess_peers(run: Run, question: Question) -> Assessment:
    """The peers alone: nothing is trained."""
    prepared = prepare(question.fit, question.cut_us)
    return assess(
        question,
        prepared,
        peer_scorers(question, prepared, run.evidence(prepared)),
        run.user_columns(question.moments).state,
        settings=run.settings,
    )


def new_version(now: datetime) -> int:
    """YYYYMMDDHHMMSS of a UTC time.

    >>> new_version(datetime(2026, 1, 2, 3, 4, 5))
    20260102030405
    """
    return int(now.strftime("%Y%m%d%H%M%S"))


def iso(time_us: int) -> str:
    """UTC, for people and JSON.

    >>> iso(0)
    '1970-01-01T00:00:00+00:00'
    """
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()


def top_frame(run: Run, question: Question, assessment: Assessment) -> pd.DataFrame:
    """What the model recommends: user_id, rank from 1, item_id."""
    top = assessment.answers[MODEL].top  # [users, k]
    row, column = np.nonzero(top)
    items = assessment.known_items[top[row, column] - FIRST_ROW]
    return pd.DataFrame(
        {
            "user_id": run.log.user_ids[question.moments.user[row]].astype(str),
            "rank": (column + 1).astype(np.int64),
            "item_id": run.log.item_ids[items].astype(str),
        }
    )
