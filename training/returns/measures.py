"""How good probabilities are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BINS = 10


def auc(label: Floats, score: Floats) -> float | None:
    """Probability that one who came is scored above one who did not, ties half; None with one kind only.

    >>> auc(np.array([0.0, 1.0, 1.0]), np.array([0.2, 0.2, 0.9]))
    0.75
    """
    from scipy.stats import rankdata

    came = label > 0
    positive, negative = int(came.sum()), int((~came).sum())
    if not positive or not negative:
        return None
    rank = rankdata(score)
    return float((rank[came].sum() - positive * (positive + 1) / 2) / (positive * negative))


def auc_error(label: Floats, first: Floats, second: Floats, *, samples: int = 200, seed: int = 0) -> float | None:
    """Standard error of the difference of two scores' AUCs on the same users, by bootstrap."""
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(samples):
        drawn = rng.integers(0, len(label), len(label))
        one, other = auc(label[drawn], first[drawn]), auc(label[drawn], second[drawn])
        if one is not None and other is not None:
            differences.append(one - other)
    return float(np.std(differences, ddof=1)) if len(differences) > 1 else None


def log_losses(label: Floats, probability: Floats) -> Floats:
    """[users]"""
    clipped = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.asarray(-(label * np.log(clipped) + (1 - label) * np.log(1 - clipped)))


def brier(label: Floats, probability: Floats) -> float:
    return float(((probability - label) ** 2).mean())


def calibration_error(label: Floats, probability: Floats) -> float:
    """Expected calibration error over `BINS` groups of equal size (Naeini, Cooper and Hauskrecht 2015)."""
    groups = np.array_split(np.argsort(probability, kind="stable"), BINS)
    gaps = [abs(probability[rows].mean() - label[rows].mean()) * len(rows) for rows in groups if len(rows)]
    return float(np.sum(gaps) / max(len(label), 1))
