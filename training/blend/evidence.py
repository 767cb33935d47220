"""What the items of a user's history say of the other items: the classic recommenders, learnt before a cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from training.blend import similarity
from training.blend.similarity import Matrix
from training.examples.split import Question
from training.log.engagements import Engagements
from training.vocabulary import FIRST_ROW


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Item-to-item matrices, [rows, rows] each."""

    ease: Matrix
    transitions: Matrix
    item_knn: Matrix
    content: Matrix


def learn_evidence(fit: Engagements, item_row: np.ndarray, num_rows: int, vectors: sp.csr_array) -> Evidence:
    """All of them from one log; `vectors` [rows, terms] are the items' TF-IDF vectors."""
    met = similarity.discoveries(fit, item_row, num_rows)
    return Evidence(
        ease=similarity.ease(met),
        transitions=similarity.transitions(met),
        item_knn=similarity.item_knn(met),
        content=similarity.content(vectors),
    )


@dataclass(frozen=True, kw_only=True)
class EvidenceScorer:
    """Σ over the user's items of weight × matrix[item]."""

    matrix: Matrix
    weights: sp.csr_array  # float32 [moments, rows]

    def __call__(self, users: slice) -> np.ndarray:
        scores = self.weights[users] @ self.matrix
        return scores.toarray() if sp.issparse(scores) else np.asarray(scores)


def history_weights(question: Question, item_row: np.ndarray, num_rows: int, *, fading: float) -> sp.csr_array:
    """Float32 [moments, rows]: exp(−n / fading) for the user's n-th newest item, however often it was met."""
    moments, log = question.moments, question.history
    count = moments.end - moments.start
    moment = np.repeat(np.arange(len(moments)), count)
    back = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)  # 0 is the newest
    row = item_row[log.item[np.repeat(moments.end, count) - 1 - back]]
    _, newest = np.unique(moment * num_rows + row, return_index=True)
    newest = np.sort(newest[row[newest] >= FIRST_ROW])
    moment, row = moment[newest], row[newest]
    rank = np.arange(len(moment)) - np.searchsorted(moment, moment)
    weights = np.exp(-rank / fading).astype(np.float32)
    return sp.csr_array((weights, (moment, row)), shape=(len(moments), num_rows))
