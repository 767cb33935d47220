"""Everything that can rank the catalogue for users: the model, its retrieval half, and the popularity baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from training.examples import Moments, Tables, history_inputs
from training.model import Recommender
from training.popularity import POPULARITY_FEATURES, PopularityTable
from training.split import Question


class Scorer(Protocol):
    """Scores the whole catalogue; larger is better, ties are broken by the item's row."""

    def __call__(self, users: slice) -> np.ndarray:
        """Float [users, rows] for these moments of the question."""
        ...


@dataclass(frozen=True, kw_only=True)
class PopularityScorer:
    """The same order for everyone: the number of engagements before the moment, in all time or in recent days."""

    feature: str
    table: PopularityTable
    moments: Moments

    def __call__(self, users: slice) -> np.ndarray:
        period = self.table.periods(self.moments.as_of_us[users])
        counted = self.table.features[period][:, :, POPULARITY_FEATURES.index(self.feature)]
        all_time = self.table.features[period][:, :, 0]
        scores: np.ndarray = counted + 1e-4 * all_time  # [users, rows]; among equals the more popular of all time first
        return scores


BASELINES = {"popularity": "log_all_time", "popularity_30d": "log_30d", "popularity_7d": "log_7d"}


@dataclass(frozen=True, kw_only=True)
class ModelScorer:
    """The model over the whole catalogue, by `rank` or by `retrieve`; logits, not probabilities."""

    recommender: Recommender
    inputs: dict[str, np.ndarray]
    table: PopularityTable
    as_of_us: np.ndarray  # int64 [moments]

    def logits(self, users: slice) -> dict[str, np.ndarray]:
        """`rank` and `retrieve`, each [users, rows]."""
        batch = {name: values[users] for name, values in self.inputs.items()}
        period = self.table.periods(self.as_of_us[users])
        rows = self.table.features.shape[1]
        batch["candidate_items"] = np.broadcast_to(np.arange(rows, dtype=np.int32), (len(period), rows))
        batch["candidate_popularity"] = self.table.features[period]
        logits: dict[str, np.ndarray] = self.recommender.predict_on_batch(batch)
        return logits

    def __call__(self, users: slice) -> np.ndarray:
        return self.logits(users)["rank"]


@dataclass(frozen=True, kw_only=True)
class RetrievalScorer:
    """The retrieval half of the model alone."""

    model: ModelScorer

    def __call__(self, users: slice) -> np.ndarray:
        return self.model.logits(users)["retrieve"]


def model_scorer(
    recommender: Recommender, question: Question, tables: Tables, user_features: np.ndarray, table: PopularityTable
) -> ModelScorer:
    """The model, asked a question."""
    moments = question.moments
    inputs = history_inputs(question.history, moments, tables, length=recommender.model_shape.history_length)
    inputs |= {"user_features": user_features, "user": moments.user + 1}
    return ModelScorer(recommender=recommender, inputs=inputs, table=table, as_of_us=moments.as_of_us)
