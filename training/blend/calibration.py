"""Platt scaling: logits → the probability that an item is the one of a pair that the user went on to meet.

The pair is a real target and one item drawn uniformly from those the user neither had nor went on to meet, so a
half of all labels is 1. The probability is therefore one under that balance: it orders items and compares users, but
it is not the rate of engagement per item shown.
"""

from __future__ import annotations

import numpy as np

STEPS = 50
RIDGE = 1e-6
LEAST_SLOPE = 0.01


def platt(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """(a, b) that make σ(a · logit + b) most likely, by Newton's method; labels are smoothed as Platt does.

    A slope that would turn the order around becomes `LEAST_SLOPE`: such scores say nothing, so each is about a half,
    but the order that the model gives is kept.

    >>> a, b = platt(np.array([1.0, 2.0, -1.0]), np.array([-1.0, -2.0, 1.0]))
    >>> a > 0, abs(b) < 1e-6
    (True, True)
    """
    logit = np.concatenate([positive, negative]).astype(np.float64)
    count = len(positive), len(negative)
    label = np.concatenate([np.full(count[0], (count[0] + 1) / (count[0] + 2)), np.full(count[1], 1 / (count[1] + 2))])
    centre, scale = logit.mean(), max(float(logit.std()), 1e-9)
    design = np.stack([(logit - centre) / scale, np.ones_like(logit)], axis=1)  # [pairs, 2]
    weights = np.zeros(2)
    for _ in range(STEPS):
        probability = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (probability - label) + RIDGE * weights
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    slope = float(weights[0] / scale)
    if slope < LEAST_SLOPE:
        return LEAST_SLOPE, -LEAST_SLOPE * float(centre)
    return slope, float(weights[1] - weights[0] * centre / scale)


def probability(logit: np.ndarray, slope: float, offset: float) -> np.ndarray:
    """σ(a · logit + b).

    >>> float(probability(np.array([0.0]), 1.0, 0.0)[0])
    0.5
    """
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(slope * logit + offset, -60, 60))))
