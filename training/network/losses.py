"""What is minimised. All in float32, whatever the layers compute in.

`sampled softmax` with logQ correction (Bengio and Senécal 2008) against negatives that a whole batch shares; over all
items it is the full softmax. `gBCE` (Petrov and Macdonald 2023) is binary cross-entropy whose positive part is weakened
as the negatives are few, so that it does not grow sure of itself.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from training.network.blocks import FAR_BELOW
from training.vocabulary import PADDING


def softmax_against(positive: Any, negative: Any) -> Any:
    """−log softmax of each positive [n] against its negatives [n, negatives]."""
    return ops.logaddexp(ops.logsumexp(negative, axis=-1), positive) - positive


def gbce(positive: Any, negative: Any, *, num_items: int, calibration: float) -> Any:
    """−β log σ(positive) − Σ log(1 − σ(negative)), per positive [n].

    β = α(t(1 − 1/α) + 1/α) with α the share of items drawn as negatives; t = 0 is binary cross-entropy, 1 calibrated.
    """
    drawn = ops.sum(ops.cast(negative > FAR_BELOW / 2, "float32"), axis=-1)
    share = ops.minimum(drawn / max(1, num_items - 1), 1.0)
    beta = share * (calibration * (1.0 - 1.0 / ops.maximum(share, 1e-9)) + 1.0 / ops.maximum(share, 1e-9))
    return beta * ops.softplus(-positive) + ops.sum(ops.softplus(negative), axis=-1)


def without_own(logits: Any, items: Any, targets: Any) -> Any:
    """Logits [users, negatives] of shared negatives, far below where the item is padding or the user's own target.

    items: [negatives]; targets: [users].
    """
    is_none = ops.logical_or(ops.equal(items[None, :], targets[:, None]), ops.equal(items, PADDING)[None, :])
    return logits + ops.where(is_none, FAR_BELOW, 0.0)  # added, so that there is nothing to select on the way back


def weighted_mean(values: Any, weight: Any) -> Any:
    """Of values where the weight is above 0; 0 where there is none."""
    return ops.sum(values * weight) / ops.maximum(ops.sum(weight), 1e-6)


def candidate_losses(logits: Any, label: Any, weight: Any = None) -> tuple[Any, Any]:
    """Binary cross-entropy and softmax, each summed over the candidates: [batch] twice.

    logits, label [batch, candidates]; the label is 1 for a target, 0 for a negative, −1 for none. One of weight w
    counts as w of them; without `weight` each counts 1.
    """
    is_candidate = ops.cast(label >= 0, "float32")
    counts = is_candidate if weight is None else is_candidate * weight
    label = ops.maximum(label, 0.0)
    cross_entropy = ops.maximum(logits, 0.0) - logits * label + ops.log1p(ops.exp(-ops.abs(logits)))
    binary = ops.sum(cross_entropy * counts, axis=1)
    known = ops.where(is_candidate > 0, logits, FAR_BELOW)
    many = known if weight is None else known + ops.log(ops.maximum(counts, 1e-9))
    softmax = ops.sum(label, axis=1) * ops.logsumexp(many, axis=1)
    return binary, softmax - ops.sum(label * ops.where(label > 0, known, 0.0), axis=1)
