"""Metrics of rankings and scores, per user first; whoever wants a mean takes it over the users of a slice.

`hits` is bool [users, k], true where the item at that rank is a target, best rank first; `targets` is the number of
targets of each user, at least 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FEW_TARGETS = 8  # are compared with all others; of more, the others are sorted once
Floats = npt.NDArray[np.float64]


def ndcg(hits: npt.NDArray[np.bool_], targets: npt.NDArray[np.int64]) -> Floats:
    """Discounted gain over that of the best ranking of as many targets, both cut at k.

    >>> ndcg(np.array([[True, False], [False, True]]), np.array([1, 5])).round(4).tolist()
    [1.0, 0.3869]
    """
    discount = 1.0 / np.log2(np.arange(hits.shape[1]) + 2.0)
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(targets, hits.shape[1])]
    return np.asarray((hits * discount).sum(axis=1) / ideal)


def recall(hits: npt.NDArray[np.bool_], targets: npt.NDArray[np.int64]) -> Floats:
    """Hits over the targets that fit into k.

    >>> recall(np.array([[True, False], [True, True]]), np.array([1, 5])).tolist()
    [1.0, 1.0]
    """
    return np.asarray(hits.sum(axis=1) / np.minimum(targets, hits.shape[1]))


def hit_rate(hits: npt.NDArray[np.bool_]) -> Floats:
    """1 where any target is among the k.

    >>> hit_rate(np.array([[False, True], [False, False]])).tolist()
    [1.0, 0.0]
    """
    return np.asarray(hits.any(axis=1), np.float64)


def reciprocal_rank(hits: npt.NDArray[np.bool_]) -> Floats:
    """1 over the rank of the first hit, 0 without one; its mean is MRR.

    >>> reciprocal_rank(np.array([[False, True], [False, False]])).tolist()
    [0.5, 0.0]
    """
    first = np.argmax(hits, axis=1) + 1.0
    return np.where(hits.any(axis=1), 1.0 / first, 0.0)


def auc(scores: npt.NDArray[np.floating], is_target: npt.NDArray[np.bool_], is_other: npt.NDArray[np.bool_]) -> Floats:
    """Chance that a random target scores above a random other item of the same user; a tie counts half.

    All arrays are [users, items]; items that are neither do not count. A user without others gets NaN.

    >>> auc(np.array([[3., 2., 1.]]), np.array([[True, False, True]]), np.array([[False, True, False]])).tolist()
    [0.5]
    """
    values = np.full(len(scores), np.nan)
    for row, (score, target, other) in enumerate(zip(scores, is_target, is_other, strict=True)):
        others = score[other]
        if len(others) and 0 < target.sum() <= FEW_TARGETS:
            found = score[target][:, None]
            values[row] = ((others < found).mean() + (others <= found).mean()) / 2
        elif len(others) and target.any():
            others = np.sort(others)
            below = np.searchsorted(others, score[target], side="left")
            not_above = np.searchsorted(others, score[target], side="right")
            values[row] = (below + not_above).mean() / 2 / len(others)
    return values


def novelty(top: npt.NDArray[np.integer], share_of_users: Floats) -> Floats:
    """Mean −log2 of the share of users who have each recommended item; `top` is item rows [users, k].

    >>> novelty(np.array([[0, 1]]), np.array([0.5, 0.125])).tolist()
    [2.0]
    """
    return np.asarray(-np.log2(share_of_users[top]).mean(axis=1))


def coverage(top: npt.NDArray[np.integer], num_items: int) -> float:
    """Share of the catalogue that is recommended to anyone.

    >>> coverage(np.array([[0, 1], [1, 2]]), 4)
    0.75
    """
    return len(np.unique(top)) / num_items


def reliability(probability: Floats, label: npt.NDArray[np.floating], *, bins: int = 10) -> list[dict[str, float]]:
    """Mean probability, share of positives and count of each non-empty bin of equal width.

    >>> reliability(np.array([0.1, 0.1, 0.9]), np.array([0.0, 1.0, 1.0]), bins=2)[0]["share"]
    0.5
    """
    bucket = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        {
            "probability": float(probability[bucket == index].mean()),
            "share": float(label[bucket == index].mean()),
            "count": int((bucket == index).sum()),
        }
        for index in np.unique(bucket)
    ]


def calibration_error(probability: Floats, label: npt.NDArray[np.floating], *, bins: int = 10) -> float:
    """Expected calibration error: the bins' gap between probability and share, weighted by their counts.

    >>> round(calibration_error(np.array([0.2, 0.2, 0.9]), np.array([0.0, 0.0, 1.0]), bins=2), 4)
    0.1667
    """
    curve = reliability(probability, label, bins=bins)
    return sum(abs(bin_["probability"] - bin_["share"]) * bin_["count"] for bin_ in curve) / len(probability)


def mean_and_error(values: Floats) -> tuple[float, float]:
    """Mean over users and its standard error; NaN values are left out, no value at all gives NaN.

    >>> mean_and_error(np.array([0.0, 1.0]))
    (0.5, 0.5)
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    error = known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else float("nan")
    return float(known.mean()), float(error)
