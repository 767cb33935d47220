"""The parts of the recommender that an ablation leaves out, and what it answers without them.

Parts of the answer are taken out of one trained model: the blend is fitted again, as it would be had the part never
been there. Parts of the training need a training each. Nobody is asked of weights that were fitted on the very answer:
the test lies after the fit, and on validation each fold of the users is asked of weights that the other folds gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np

from feature_repo.errors import LongtailError
from training.blend.blend import DOTS, EVIDENCE_CHANNELS, HEAD, POPULARITY_CHANNELS, Blend, Mix, popularity_windows
from training.blend.neighbours import MATRICES
from training.evaluation.assessment import Assessment, assess
from training.evaluation.scoring import BlendScorer, ModelScorer, Scorer, model_scorer
from training.examples.preparation import Preparation, prepare
from training.examples.split import Question, Split
from training.fitting.blend_fitting import EVERYTHING, Fitted, Hearing, fit_mix, usual_blend, usual_mix
from training.fitting.blend_sample import FOLDS, Drawn, draw
from training.fitting.phases import Phases
from training.fitting.progress import Progress
from training.fitting.runs import Run
from training.log.log_reader import UserColumns
from training.log.popularity import PopularityTable
from training.model import Recommender
from training.settings import TrainingSettings
from training.workflow import learn

WHOLE: Final = "whole"
VALIDATION, TEST = "validation", "test"


@dataclass(frozen=True, kw_only=True)
class Part:
    """What an answer without it does not know."""

    hearing: Hearing = EVERYTHING
    told: Mapping[str, float] = field(default_factory=dict)  # inputs of the network that are one number for everybody
    is_fitted: bool = True  # else everybody has the usual weights


def _unheard(*channels: str) -> Part:
    return Part(hearing=Hearing(silent=channels))


PARTS: Final[Mapping[str, Part]] = {
    WHOLE: Part(),
    "network": _unheard(DOTS, HEAD),
    "ranking head": _unheard(HEAD),
    "own weights": Part(told={"user": 0}),
    "user features": Part(told={"user_features": np.nan}),
    "closed form": _unheard(*EVIDENCE_CHANNELS, *POPULARITY_CHANNELS),
    "popularity": _unheard(*POPULARITY_CHANNELS),
    "item to item": _unheard(*EVIDENCE_CHANNELS),
    **{matrix: _unheard(*(name for name in EVIDENCE_CHANNELS if name.startswith(f"{matrix},"))) for matrix in MATRICES},
    "weights by user": Part(hearing=Hearing(by_user=False)),
    "fitted weights": Part(is_fitted=False),
    "calibration by user": Part(hearing=Hearing(calibrated_by_user=False)),
}
TRAININGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "terms": {"terms_per_item": 0},
    "own_dropout": {"own_dropout": 0.0},
    "user_dropout": {"user_dropout": 0.0},
    "head_loss": {"head_weight": 0.0},
    "time_gaps": {"time_gaps": False},
    "learnt_prior": {"learnt_prior": False},  # the default: to see what it gives, --set learnt_prior=true
}
"""Settings of a training without the part."""


@dataclass(frozen=True, kw_only=True)
class Remembered(ModelScorer):
    """A network whose answers to all users of a question are known."""

    answers: Mapping[str, np.ndarray]  # "rank" and "retrieve", float32 [moments, rows]

    def __call__(self, users: slice) -> np.ndarray:
        return self.answers["rank"][users]

    def retrieval_logits(self, users: slice) -> np.ndarray:
        return self.answers["retrieve"][users]


def remembered(network: ModelScorer) -> Remembered:
    """Asks the network once."""
    return Remembered(
        recommender=network.recommender,
        inputs=network.inputs,
        table=network.table,
        as_of_us=network.as_of_us,
        answers=network.logits(slice(0, len(network.as_of_us))),
    )


def telling(network: ModelScorer, told: Mapping[str, float]) -> ModelScorer:
    """The network with these inputs one number for everybody."""
    same = {name: np.full_like(network.inputs[name], number) for name, number in told.items()}
    return replace(network, inputs=network.inputs | same)


@dataclass(frozen=True, kw_only=True)
class LeftOutScorer:
    """Each user is asked of what the other folds gave."""

    folds: Sequence[Scorer]
    fold: np.ndarray  # int64 [moments]

    def __call__(self, users: slice) -> np.ndarray:
        scores = np.stack([scorer(users) for scorer in self.folds])  # [folds, users, rows]
        return np.asarray(scores[self.fold[users], np.arange(scores.shape[1])])


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, and what answers it."""

    question: Question
    prepared: Preparation
    network: ModelScorer
    columns: UserColumns
    windows: PopularityTable

    def telling(self, told: Mapping[str, float]) -> Asked:
        """Whose network was told one number for everybody."""
        return replace(self, network=remembered(telling(self.network, told)))

    def scorer(self, blend: Blend, mix: Mix) -> BlendScorer:
        return BlendScorer(blend=blend, mix=mix, network=self.network, windows=self.windows)

    def assessed(self, scorers: Mapping[str, Scorer], settings: TrainingSettings) -> Assessment:
        return assess(self.question, self.prepared, scorers, self.columns.state, settings=settings)


def ask(run: Run, question: Question, prepared: Preparation, recommender: Recommender) -> Asked:
    """A question to a trained network."""
    columns, rows = run.user_columns(question.moments), (prepared.tables.item_row, prepared.num_rows)
    return Asked(
        question=question,
        prepared=prepared,
        network=model_scorer(recommender, question, prepared.tables, columns.features, prepared.popularity),
        columns=columns,
        windows=popularity_windows(prepared.fit, *rows, question.moments.as_of_us),
    )


def answers_without(run: Run, made: Split, folder: Path, parts: Mapping[str, Part]) -> dict[str, Assessment]:
    """Trains, or reads what was trained in the folder before, and asks validation and test without each part."""
    keras.utils.clear_session()
    learnt = learn(run, made, folder, resume=True, refit=made.name == "temporal", progress=Progress())
    if learnt.blend.note:
        raise LongtailError(f"nothing can be told of the parts: {learnt.blend.note}")
    searched = Phases(run=run, folder=folder, resume=True, progress=Progress()).search(made.validation)
    validation = ask(run, made.validation, searched.prepared, searched.fit.recommender)
    test = ask(run, made.test, prepare(made.test.fit, made.test.cut_us), learnt.recommender)
    evidence, at_test = run.evidence(searched.prepared), learnt.blend.of_rows(test.prepared.num_rows)
    scorers: dict[str, dict[str, Scorer]] = {VALIDATION: {}, TEST: {}}
    for inputs in dict.fromkeys(tuple(part.told) for part in parts.values()):
        alike = {name: part for name, part in parts.items() if tuple(part.told) == inputs}
        told = next(iter(alike.values())).told
        network = telling(validation.network, told)
        drawn = draw(
            made.validation,
            searched.prepared,
            evidence,
            network,
            seed=run.settings.seed,
            most_neighbours=run.settings.neighbours,
        )
        before, after = validation.telling(told), test.telling(told)
        for name, part in alike.items():
            fitted = fit_without(drawn, part)
            folds = [before.scorer(usual_blend(drawn), mix) for mix in fitted.left_out]
            scorers[VALIDATION][name] = LeftOutScorer(folds=folds, fold=drawn.fold_of(len(made.validation.moments)))
            scorers[TEST][name] = after.scorer(replace(at_test, scales=drawn.scales), fitted.mix)
    return {
        VALIDATION: validation.assessed(scorers[VALIDATION], run.settings),
        TEST: test.assessed(scorers[TEST], run.settings),
    }


def fit_without(drawn: Drawn, part: Part) -> Fitted:
    """The mix of `rank` that does not know the part."""
    if part.is_fitted:
        return fit_mix(drawn.sample, part.hearing)
    usual = usual_mix(with_head=True)
    return Fitted(mix=usual, left_out=[usual] * FOLDS, ridge=0.0)
