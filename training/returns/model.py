"""The return model: gradient-boosted trees over what is known of a user, with Platt's calibration on later moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from training.blend.calibration import platt, probability
from training.returns.examples import Examples, Floats


@dataclass(frozen=True, kw_only=True)
class ReturnModel:
    """p = σ(slope · logit + offset); `trees` is scikit-learn's."""

    trees: Any
    slope: float = 1.0
    offset: float = 0.0

    def predict(self, features: Floats) -> Floats:
        return probability(self._logit(features), self.slope, self.offset)

    def calibrated(self, on: Examples) -> ReturnModel:
        logit, came = self._logit(on.features), on.came > 0
        slope, offset = platt(logit[came], logit[~came])
        return ReturnModel(trees=self.trees, slope=slope, offset=offset)

    def _logit(self, features: Floats) -> Floats:
        return np.asarray(self.trees.decision_function(features), np.float64)


def fit(examples: Examples, *, seed: int = 0) -> ReturnModel:
    """Small trees and many users to a leaf: the signal is weak, and moments of one user are alike."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    leaf = max(20, min(500, len(examples) // 100))
    trees = HistGradientBoostingClassifier(
        max_iter=80,
        learning_rate=0.08,
        max_leaf_nodes=6,
        min_samples_leaf=leaf,
        l2_regularization=10,
        random_state=seed,
    )
    return ReturnModel(trees=trees.fit(learnable(examples.features), examples.came.astype(int)))


def learnable(features: Floats) -> Floats:
    """The same with 0 in columns that are missing throughout, such as values in a log without: trees refuse those."""
    return np.where(np.isnan(features).all(axis=0), 0.0, features)
