"""A model of the reward for DM and DR: the rate of each item at each place, drawn to the place's mean; cross-fitted.

q̂(a, k) = (Σ r + m · mean_k) / (n + m) from the other folds only, so that a round's own reward is not in its q̂ and DR
keeps its unbiasedness (Chernozhukov et al. 2018, Double/debiased machine learning).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from outcomes.estimate import Floats, Integers

PRIOR_ROUNDS: Final = 100.0  # the place's mean weighs as much as so many rounds


def cross_fitted(
    *, reward: Floats, action: Integers, place: Integers, cluster: Integers, actions: int, places: int, folds: int = 5
) -> Floats:
    """Rates for each fold from the others. [folds, places, actions]"""
    fold = fold_of(cluster, folds)
    cell = place * actions + action
    cells = places * actions
    count = np.bincount(fold * cells + cell, minlength=folds * cells).reshape(folds, places, actions).astype(np.float64)
    total = np.bincount(fold * cells + cell, weights=reward, minlength=folds * cells).reshape(count.shape)
    others_count, others_total = count.sum(0) - count, total.sum(0) - total  # [folds, places, actions]
    everywhere = others_total.sum((1, 2)) / np.maximum(others_count.sum((1, 2)), 1)  # [folds]
    seen = others_count.sum(2)  # [folds, places]
    mean = np.where(seen > 0, others_total.sum(2) / np.maximum(seen, 1), everywhere[:, None])[:, :, None]
    return np.asarray((others_total + PRIOR_ROUNDS * mean) / (others_count + PRIOR_ROUNDS))


def fold_of(cluster: Integers, folds: int) -> Integers:
    """Rounds of one cluster share a fold. [rounds]"""
    return cluster % folds
