"""Learns the blend's weights on a validation question: which part to trust for which user."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from training.blend.blend import CHANNELS, DOTS, EVIDENCE_CHANNELS, FACTS, HEAD, Blend, Mix
from training.blend.evidence import Evidence
from training.blend.neighbours import NEIGHBOURS
from training.evaluation.scoring import ModelScorer
from training.examples.preparation import Preparation
from training.examples.split import Question
from training.fitting.blend_sample import FOLDS, PAIRS, Drawn, Sample, draw
from training.fitting.listwise import Lists, fit_lists, fit_logistic

LEAST_USERS: Final = 20
RIDGES: Final = (100.0, 30.0, 10.0, 3.0, 1.0)
CALIBRATION_RIDGE: Final = 1.0

# What fits to several logs have in common; a log too small to say otherwise gets it.
PRIOR: Final = dict.fromkeys(EVIDENCE_CHANNELS, 0.15) | {
    "popularity, 7 d": 0.2,
    "popularity, 30 d": 0.2,
    "popularity, 90 d": 0.2,
    DOTS: 0.15,
    HEAD: 0.15,
}


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """What a fit listens to."""

    silent: Collection[str] = ()  # channels that say nothing
    by_user: bool = True  # the weights follow the facts of the user; else everybody has the same
    calibrated_by_user: bool = True  # slope and offset likewise


EVERYTHING: Final = Hearing()


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A mix, and how it came out."""

    mix: Mix
    left_out: list[Mix]  # by fold: what the users of the others say of it
    ridge: float


def prior_weights(silent: Collection[str] = ()) -> np.ndarray:
    """Float64 [channels, facts]: the same for every user. Without the head the dot product speaks for the network."""
    usual = PRIOR | ({DOTS: PRIOR[DOTS] + PRIOR[HEAD]} if HEAD in silent else {})
    weights = np.zeros((len(CHANNELS), len(FACTS)))
    weights[:, 0] = [0.0 if name in silent else usual.get(name, 0.0) for name in CHANNELS]
    return weights


def fit_blend(
    question: Question,
    prepared: Preparation,
    known: Evidence,
    network: ModelScorer,
    *,
    seed: int,
    most_neighbours: int = NEIGHBOURS,
) -> Blend:
    """Fits on the users of a question; the tables are those of the question's cut."""
    drawn = draw(question, prepared, known, network, seed=seed, most_neighbours=most_neighbours)
    blend = usual_blend(drawn)
    if blend.users < LEAST_USERS:
        return blend
    rank = fit_mix(drawn.sample)
    retrieve = _at_ridge(drawn.sample, Hearing(silent=(HEAD,)), rank.ridge)
    return replace(blend, rank=rank.mix, retrieve=retrieve, ridge=rank.ridge, note="")


def usual_blend(drawn: Drawn) -> Blend:
    """The usual weights for everybody, with the tables of a question."""
    users = len(drawn.sample.fold)
    return Blend(
        neighbours=drawn.neighbours,
        popularity=drawn.popularity,
        scales=drawn.scales,
        rank=usual_mix(with_head=True),
        retrieve=usual_mix(with_head=False),
        ridge=0.0,
        users=users,
        note=f"{users} users to learn from, {LEAST_USERS} are needed: everybody has the usual weights",
    )


def usual_mix(*, with_head: bool) -> Mix:
    """The same for every user, not calibrated."""
    weights = prior_weights(() if with_head else (HEAD,))
    calibration = np.eye(2, len(FACTS), dtype=np.float32)
    calibration[1] = 0.0
    return Mix(weights=weights.astype(np.float32), calibration=calibration)


def fit_mix(sample: Sample, hearing: Hearing = EVERYTHING) -> Fitted:
    """Fits the weights, with the ridge by which they explain best what users left out of the fit went on to meet.

    The calibration is learnt from scores of users left out, too.
    """
    heard, lists, prior = _heard(sample, hearing)
    ridge, left_out = _choose_ridge(lists, sample.fold, prior)
    calibration = _calibrate(heard, left_out, by_user=hearing.calibrated_by_user)
    weights = fit_lists(lists, prior=prior, ridge=ridge)
    return Fitted(
        mix=_as_mix(weights, calibration), left_out=[_as_mix(one, calibration) for one in left_out], ridge=ridge
    )


def _at_ridge(sample: Sample, hearing: Hearing, ridge: float) -> Mix:
    heard, lists, prior = _heard(sample, hearing)
    weights = fit_lists(lists, prior=prior, ridge=ridge)
    return _as_mix(weights, _calibrate(heard, [weights] * FOLDS, by_user=hearing.calibrated_by_user))


def _heard(sample: Sample, hearing: Hearing) -> tuple[Sample, Lists, np.ndarray]:
    """The sample as it is heard, the lists to fit weights to, and the prior of these."""
    heard = sample.without(hearing.silent)
    lists = heard.lists if hearing.by_user else replace(heard.lists, facts=_same_for_all(heard.lists.facts))
    return heard, lists, prior_weights(hearing.silent)


def _same_for_all(facts: np.ndarray) -> np.ndarray:
    """Facts [users, facts] of which the first, which is always 1, is known alone."""
    return np.asarray(facts * np.eye(1, len(FACTS), dtype=np.float32))


def _as_mix(weights: np.ndarray, calibration: np.ndarray) -> Mix:
    return Mix(weights=weights.astype(np.float32), calibration=calibration.astype(np.float32))


def _choose_ridge(lists: Lists, in_fold: np.ndarray, prior: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """The ridge of the least loss on users left out, and the weights that were fitted without each fold."""
    best_loss, best_ridge, best = np.inf, RIDGES[0], [prior] * FOLDS
    fitted = [prior] * FOLDS
    for ridge in RIDGES:
        losses = []
        for fold in range(FOLDS):
            rest = lists.take(np.flatnonzero(in_fold != fold))
            fitted[fold] = fit_lists(rest, prior=prior, ridge=ridge, start=fitted[fold])
            own = np.flatnonzero(in_fold == fold)
            losses.append(lists.take(own).loss(fitted[fold]) * len(own))
        if sum(losses) < best_loss:
            best_loss, best_ridge, best = sum(losses), ridge, list(fitted)
    return best_ridge, best


def _calibrate(sample: Sample, left_out: list[np.ndarray], *, by_user: bool) -> np.ndarray:
    """Slope and offset [2, facts] of targets against uniform items, scored by weights that have not seen the user."""
    lists = sample.lists
    own = np.zeros((len(sample.fold), len(CHANNELS)))
    for fold, weights in enumerate(left_out):
        own[sample.fold == fold] = lists.facts[sample.fold == fold] @ weights.T
    positive = np.matmul(lists.x, own[:, :, None])[:, :, 0]
    negative = np.matmul(sample.pairs, own[:, :, None])[:, :, 0]
    user, place = np.nonzero(lists.target)
    pair_user = np.repeat(np.arange(len(own)), PAIRS)
    logit = np.concatenate([positive[user, place], negative.ravel()])
    known = lists.facts if by_user else _same_for_all(lists.facts)
    facts = known[np.concatenate([user, pair_user])]
    label = np.concatenate([np.ones(len(user)), np.zeros(len(pair_user))])
    weight = np.concatenate([lists.target[user, place], np.full(len(pair_user), 1.0 / PAIRS)])
    centre, scale = float(logit.mean()), max(float(logit.std()), 1e-6)
    design = np.concatenate([facts * ((logit - centre) / scale)[:, None], facts], axis=1)
    found = fit_logistic(
        design, label, weight, prior=np.eye(1, design.shape[1]).ravel(), ridge=CALIBRATION_RIDGE
    ).reshape(2, -1)
    return np.stack([found[0] / scale, found[1] - found[0] * centre / scale])
