"""Everything that can rank the catalogue for users: the model, its retrieval half, and the popularity baselines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
from keras import ops

from feature_repo.contract import HISTORY_LENGTH
from training.blend.blend import Blend, Mix, Past
from training.examples.moments import Moments, Tables, history_inputs
from training.examples.split import Question
from training.log.popularity import POPULARITY_FEATURES, PopularityTable
from training.model import Recommender
from training.vocabulary import PADDING

CELLS_AT_ONCE = 100_000  # users × items that the head attends for; what it makes of them should stay in the cache
HISTORY_LENGTHS = (8, 16, 32, HISTORY_LENGTH)  # padding beyond is not read
HEADS = ("rank", "retrieve")


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
        """`rank` and `retrieve`, each [users, rows]; users of alike history lengths are asked together."""
        rows = np.arange(users.start, users.start + len(self.as_of_us[users]))
        length = (self.inputs["history_items"][rows] != PADDING).sum(axis=1)
        size = max(1, CELLS_AT_ONCE // self.table.features.shape[1])
        answers = {name: np.zeros((len(rows), self.table.features.shape[1]), np.float32) for name in HEADS}
        for low, high in pairwise((-1, *HISTORY_LENGTHS)):
            alike = np.flatnonzero((length > low) & (length <= high))
            for start in range(0, len(alike), size):
                chosen = alike[start : start + size]
                for name, logits in self._logits(rows[chosen], high).items():
                    answers[name][chosen] = logits
        return answers

    def _logits(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        batch = {name: values[rows] for name, values in self.inputs.items()}
        batch |= {name: values[:, :length] for name, values in batch.items() if name.startswith("history_")}
        period = np.unique(self.table.periods(self.as_of_us[rows]), return_inverse=True)
        popularity = self.table.features[period[0]]
        batch["candidate_items"] = np.arange(self.table.features.shape[1], dtype=np.int32)[None]  # for all users
        batch["candidate_popularity"] = popularity if len(popularity) == 1 else popularity[period[1]]
        logits: dict[str, np.ndarray] = self.recommender.predict_on_batch(batch)
        return logits

    def retrieval_logits(self, users: slice) -> np.ndarray:
        """`retrieve` alone, [users, rows], without the head's attention: matrix products of users and catalogue."""
        user = self.recommender.encode({name: values[users] for name, values in self.inputs.items()})
        rows = np.arange(self.table.features.shape[1], dtype=np.int32)
        items = ops.convert_to_numpy(self.recommender.items(rows))
        bias = ops.convert_to_numpy(self.recommender.item_bias(rows))[:, 0]
        logits: np.ndarray = ops.convert_to_numpy(user.embedding) @ items.T + bias
        weights, period = ops.convert_to_numpy(user.popularity_weights), self.table.periods(self.as_of_us[users])
        for one in np.unique(period):  # users of one period read one popularity
            logits[period == one] += weights[period == one] @ self.table.features[one].T
        return logits

    def __call__(self, users: slice) -> np.ndarray:
        return self.logits(users)["rank"]

    def at(self, users: slice, items: np.ndarray) -> np.ndarray:
        """`rank` of some item rows [users, items] alone."""
        batch = {name: values[users] for name, values in self.inputs.items()}
        batch["candidate_items"] = items.astype(np.int32)
        period = self.table.periods(self.as_of_us[users])
        batch["candidate_popularity"] = self.table.features[period[:, None], items]
        logits: np.ndarray = self.recommender.predict_on_batch(batch)["rank"]
        return logits

    def of(self, users: np.ndarray, is_emptied: np.ndarray) -> ModelScorer:
        """The scorer of some of the users, some of them as if nothing were known of them."""
        inputs = {name: values[users] for name, values in self.inputs.items()}
        for name, values in inputs.items():
            values[is_emptied] = np.nan if name == "user_features" else 0
        return replace(self, inputs=inputs, as_of_us=self.as_of_us[users])

    def past(self, users: slice) -> Past:
        """What these users did."""
        return Past(items=self.inputs["history_items"][users], age_s=self.inputs["history_age_s"][users])


@dataclass(frozen=True, kw_only=True)
class RetrievalScorer:
    """The retrieval half of the network alone."""

    model: ModelScorer

    def __call__(self, users: slice) -> np.ndarray:
        return self.model.retrieval_logits(users)


def model_scorer(
    recommender: Recommender, question: Question, tables: Tables, user_features: np.ndarray, table: PopularityTable
) -> ModelScorer:
    """The model, asked a question."""
    moments = question.moments
    inputs = history_inputs(question.history, moments, tables, length=recommender.model_shape.history_length)
    inputs |= {"user_features": user_features, "user": moments.user + 1}
    return ModelScorer(recommender=recommender, inputs=inputs, table=table, as_of_us=moments.as_of_us)


@dataclass(frozen=True, kw_only=True)
class BlendScorer:
    """The blend over the whole catalogue; calibrated log-odds."""

    blend: Blend
    network: ModelScorer
    windows: PopularityTable  # the blend's popularity channels
    mix: Mix  # of the blend

    def __call__(self, users: slice) -> np.ndarray:
        popularity = self.windows.features[self.windows.periods(self.network.as_of_us[users])]
        return self.blend.logits(
            self.mix,
            self.network.past(users),
            popularity,
            dots=self.network.retrieval_logits(users),
            head=self.network(users) if self.mix.reads_head else None,
        )
