"""Ridge regression through a softmax over candidate lists, by Newton's method; and logistic regression likewise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEPS = 30
HALVINGS = 12
TOLERANCE = 1e-6  # of the loss, relative


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Candidates of users: what speaks for each, and which the user went on to meet."""

    x: np.ndarray  # float32 [users, candidates, channels]
    target: np.ndarray  # float32 [users, candidates], sums to 1 for each user
    log_weight: np.ndarray  # float32 [users, candidates]: log of how many items one stands for, −inf for none
    facts: np.ndarray  # float32 [users, facts]

    def take(self, users: np.ndarray) -> Lists:
        return Lists(
            x=self.x[users], target=self.target[users], log_weight=self.log_weight[users], facts=self.facts[users]
        )

    def logits(self, weights: np.ndarray) -> np.ndarray:
        """[users, candidates] with weights [channels, facts]."""
        own = (self.facts @ weights.T).astype(np.float32)
        return np.asarray(np.matmul(self.x, own[:, :, None])[:, :, 0])

    def loss(self, weights: np.ndarray) -> float:
        """Mean over users of −log of the softmax at the targets."""
        return float(-(self.target * np.where(self.target > 0, self._log_share(weights), 0.0)).sum(axis=1).mean())

    def _log_share(self, weights: np.ndarray) -> np.ndarray:
        logits = self.logits(weights) + self.log_weight
        largest = logits.max(axis=1, keepdims=True)
        shifted: np.ndarray = logits - largest
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))

    def curvature(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient [channels × facts] and Hessian of the summed loss."""
        share = np.exp(self._log_share(weights))
        pull = np.matmul((share - self.target)[:, None, :], self.x)[:, 0]  # [users, channels]
        mean = np.matmul(share[:, None, :], self.x)[:, 0]
        spread = np.matmul((self.x * share[:, :, None]).transpose(0, 2, 1), self.x) - mean[:, :, None] * mean[:, None]
        facts = self.facts
        size = weights.size
        outer = (facts[:, :, None] * facts[:, None, :]).reshape(len(facts), -1)  # [users, facts × facts]
        channels, count = weights.shape
        hessian = (spread.reshape(len(facts), -1).T @ outer).reshape(channels, channels, count, count)
        return (pull.T @ facts).ravel(), hessian.transpose(0, 2, 1, 3).reshape(size, size).astype(np.float64)


def fit_lists(lists: Lists, *, prior: np.ndarray, ridge: float, start: np.ndarray | None = None) -> np.ndarray:
    """Weights [channels, facts] that make Σ loss + ridge / 2 · |weights − prior|² least; the problem is convex."""
    users = len(lists.facts)
    weights = np.array(prior if start is None else start, np.float64)

    def total(at: np.ndarray) -> float:
        return lists.loss(at) * users + 0.5 * ridge * float(np.square(at - prior).sum())

    now = total(weights)
    for _ in range(STEPS):
        gradient, hessian = lists.curvature(weights)
        gradient = gradient + ridge * (weights - prior).ravel()
        step = np.linalg.solve(hessian + ridge * np.eye(weights.size), gradient).reshape(weights.shape)
        before = now
        for halving in range(HALVINGS):
            tried = weights - step * 0.5**halving
            now = total(tried)
            if now <= before:
                weights = tried
                break
        if before - now <= TOLERANCE * abs(before):
            break
    return weights


def fit_logistic(
    design: np.ndarray, label: np.ndarray, weight: np.ndarray, *, prior: np.ndarray, ridge: float
) -> np.ndarray:
    """Coefficients of σ(design · coefficients) near a prior; design [pairs, columns]."""
    coefficients = prior.astype(np.float64)
    for _ in range(STEPS):
        probability = 1.0 / (1.0 + np.exp(-np.clip(design @ coefficients, -30, 30)))
        gradient = design.T @ (weight * (probability - label)) + ridge * (coefficients - prior)
        sharp = (design * (weight * probability * (1 - probability))[:, None]).T @ design
        step = np.linalg.solve(sharp + ridge * np.eye(len(coefficients)), gradient)
        coefficients = coefficients - step
        if np.abs(step).max() < 1e-8:
            break
    return coefficients
