"""The test question, asked: of the kept model, of one fitted for it, of the peers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from feature_repo.errors import LongtailError
from training.artifact import TrainedModel
from training.blend.blend import Blend, popularity_windows
from training.evaluation.assessment import MODEL, RETRIEVAL, Assessment, assess, peer_scorers
from training.evaluation.candidates import candidate_frame
from training.evaluation.scoring import BlendScorer, Scorer, model_scorer
from training.examples.preparation import Preparation, prepare
from training.examples.split import Question, split
from training.fitting.progress import Progress
from training.fitting.runs import Run
from training.log.log_reader import UserColumns
from training.model import Recommender
from training.vocabulary import FIRST_ROW
from training.workflow import Learnt, learn

MakeScorer = Callable[[Question, np.ndarray, np.ndarray], Scorer]
"""(question, user features [moments, F], ids of the item rows from FIRST_ROW on) → who else is asked."""
NOBODY: Final[Mapping[str, MakeScorer]] = {}


def evaluate(
    run: Run, model: TrainedModel, *, k: int = 10, also: Mapping[str, MakeScorer] = NOBODY
) -> tuple[Question, Assessment]:
    """Asks the kept model, and whoever is named in `also`, the test question of the split it was trained before."""
    question, prepared = _test_question(run, model)
    return question, _assess(run, question, prepared, model.recommender, model.blend, k=k, also=also)


def _test_question(run: Run, model: TrainedModel) -> tuple[Question, Preparation]:
    """Raises LongtailError when the log or the settings are no longer those that the model was trained before."""
    question = split(run.log, "temporal", run.settings).test
    if question.cut_us != model.window_us[1]:
        raise LongtailError(
            f"the model {model.version} was trained before {iso(model.window_us[1])}, but the test of its log and "
            f"these settings starts at {iso(question.cut_us)}: settings changed, or an import was replaced or a user "
            "erased; run `longtail train` again"
        )
    prepared = prepare(question.fit, question.cut_us)
    met = run.log.item_ids[prepared.known_items]
    if not np.array_equal(met, model.item_ids[: len(met)]):
        raise LongtailError(
            f"the log that the model {model.version} learnt from has other items now: an import was replaced or a "
            "user erased; run `longtail train` again"
        )
    return question, prepared


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
    question, prepared = _test_question(run, model)
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
