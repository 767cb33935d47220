"""The report of one question: the model beside the baselines, by slice, with standard errors and paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.blend.calibration import platt, probability
from training.blend.evidence import Evidence, EvidenceScorer, history_weights
from training.evaluation import metrics
from training.evaluation.asking import Answer, Sheet, ask, make_sheet, share_of_users, slices
from training.evaluation.scoring import BASELINES, PopularityScorer, Scorer
from training.examples.preparation import Preparation
from training.examples.split import Question
from training.log.popularity import DAY_US, popularity_table
from training.settings import TrainingSettings

MODEL, RETRIEVAL = "longtail", "longtail_retrieve"
PAPER_ACCURACY = 0.90  # "over 90 %" in the paper, without a data set or a way to draw negatives

JsonValue = Any


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """The answers to a question, and the slices to read them by."""

    answers: Mapping[str, Answer]
    slices: Mapping[str, np.ndarray]  # bool [users]
    sheet: Sheet
    known_items: np.ndarray  # int64 [items], item codes in row order


def assess(
    question: Question,
    prepared: Preparation,
    scorers: Mapping[str, Scorer],
    state: np.ndarray,
    *,
    settings: TrainingSettings,
    k: int = 10,
) -> Assessment:
    """Asks every scorer the question; `state` [users] is the lifecycle state at it."""
    sheet = make_sheet(question, prepared.tables.item_row, prepared.num_rows)
    fit = prepared.fit
    share = share_of_users(sheet, prepared.tables.item_row[fit.item], fit.user)
    fit_lengths = np.bincount(fit.user)
    lengths = question.moments.end - question.moments.start
    cut = dict(slices(lengths, fit_lengths[fit_lengths > 0], state))
    cut["returning"] = question.gap_us() >= settings.returning_after_days * DAY_US
    cut["dormant"] = question.gap_us() >= settings.dormant_after_days * DAY_US
    return Assessment(
        answers={name: ask(sheet, scorer, share, seed=settings.seed, k=k) for name, scorer in scorers.items()},
        slices=cut,
        sheet=sheet,
        known_items=prepared.known_items,
    )


PEER_FADING = 3.0  # items until the recency-weighted peers count 1/e


def peer_scorers(question: Question, prepared: Preparation, evidence: Evidence) -> dict[str, Scorer]:
    """Popularity, content-based and collaborative filtering; the last over the whole history, flat or recent first."""
    met = prepared.fit.where(prepared.fit.first_of_each_item())  # what was bought again says less of what is next
    table = popularity_table(
        prepared.tables.item_row[met.item],
        met.time_us,
        met.is_returning(),
        num_rows=prepared.num_rows,
        end_us=prepared.cut_us,
    )
    popularity: dict[str, Scorer] = {
        name: PopularityScorer(feature=feature, table=table, moments=question.moments)
        for name, feature in BASELINES.items()
    }
    rows = prepared.tables.item_row, prepared.num_rows
    flat = history_weights(question, *rows, fading=np.inf)
    recent = history_weights(question, *rows, fading=PEER_FADING)
    return popularity | {
        "content": EvidenceScorer(matrix=evidence.content, weights=recent),
        "item_knn": EvidenceScorer(matrix=evidence.item_knn, weights=flat),
        "item_knn_recent": EvidenceScorer(matrix=evidence.item_knn, weights=recent),
        "ease": EvidenceScorer(matrix=evidence.ease, weights=flat),
        "ease_recent": EvidenceScorer(matrix=evidence.ease, weights=recent),
        "transitions": EvidenceScorer(matrix=evidence.transitions, weights=recent),
    }


def report_of(assessment: Assessment) -> dict[str, JsonValue]:
    """Everything of the assessment as JSON: metric means and errors by scorer and slice, differences, calibration."""
    answers = assessment.answers
    per_user = {name: _with_accuracy(assessment, name) for name in answers}
    by_slice: dict[str, JsonValue] = {}
    for name, users in assessment.slices.items():
        if not users.any():
            continue
        by_slice[name] = {
            "users": int(users.sum()),
            "scorers": {
                scorer: {metric: _mean(values[users]) for metric, values in metric_values.items()}
                | {"coverage": metrics.coverage(_real(answers[scorer].top[users]), len(assessment.known_items))}
                for scorer, metric_values in per_user.items()
            },
            "ndcg_over": {
                scorer: _mean(per_user[MODEL]["ndcg"][users] - per_user[scorer]["ndcg"][users])
                for scorer in answers
                if scorer != MODEL
            },
        }
    return {
        "slices": by_slice,
        "calibration": _calibration(assessment),
        "users_served": float((answers[MODEL].top > 0).any(axis=1).mean()),
        "paper_accuracy": PAPER_ACCURACY,
    }


def _with_accuracy(assessment: Assessment, name: str) -> dict[str, np.ndarray]:
    """The answer's metrics and its accuracy per user: right on the target and on the negative, each for a half.

    The model is read at its calibrated 0.5. The others have no probability; theirs is fitted on this very question,
    which favours them.
    """
    answer, sheet = assessment.answers[name], assessment.sheet
    own = (1.0, 0.0) if name == MODEL else platt(answer.target_score, answer.negative_score)
    right = (probability(answer.target_score, *own) >= 0.5) * 0.5 + (
        probability(answer.negative_score, *own) < 0.5
    ) * 0.5
    count = np.bincount(sheet.target_row, minlength=sheet.num_users)
    total = np.bincount(sheet.target_row, weights=right, minlength=sheet.num_users)
    return {**answer.per_user, "accuracy": np.where(count > 0, total / np.maximum(count, 1), np.nan)}


def _calibration(assessment: Assessment) -> dict[str, JsonValue]:
    answer = assessment.answers[MODEL]
    score = np.concatenate([answer.target_score, answer.negative_score])
    label = np.concatenate([np.ones(len(answer.target_score)), np.zeros(len(answer.negative_score))])
    calibrated = probability(score, 1.0, 0.0)
    return {
        "error": metrics.calibration_error(calibrated, label),
        "curve": metrics.reliability(calibrated, label),
    }


def _mean(values: np.ndarray) -> dict[str, float | None]:
    mean, error = metrics.mean_and_error(values)
    return {"mean": _finite(mean), "error": _finite(error)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _real(top: np.ndarray) -> np.ndarray:
    return top[top > 0]
