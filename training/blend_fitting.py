"""Learns the blend's weights on a validation question: which part to trust for which user."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import scipy.sparse as sp

from training.blend import (
    CHANNELS,
    DOTS,
    EVIDENCE_CHANNELS,
    FACTS,
    FADINGS,
    HEAD,
    Blend,
    Mix,
    Scales,
    catalogue_channels,
    evidence,
    popularity_windows,
)
from training.evaluation import Sheet, make_sheet
from training.evidence import Evidence
from training.listwise import Lists, fit_lists, fit_logistic
from training.neighbours import MATRICES, neighbours_of
from training.popularity import PopularityTable
from training.preparation import Preparation
from training.scoring import ModelScorer
from training.split import Question

MOST_USERS: Final = 4000
LEAST_USERS: Final = 20
SCALE_USERS: Final = 300
EMPTY_SHARE: Final = 0.1  # so many are asked once more without their history: they stand for users who have none
MOST_TARGETS, CANDIDATES, PAIRS = 32, 320, 8  # of a user: targets, all candidates, negatives to calibrate on
STRONGEST, MOST_HARD = 12, 192  # others that each channel holds highest, and all of them
RIDGES: Final = (100.0, 30.0, 10.0, 3.0, 1.0)
FOLDS: Final = 3
CALIBRATION_RIDGE: Final = 1.0
CELLS_PER_CHUNK: Final = 20_000_000  # users × rows × channels

# What fits to several logs have in common; a log too small to say otherwise gets it.
PRIOR: Final = dict.fromkeys(EVIDENCE_CHANNELS, 0.15) | {
    "popularity, 7 d": 0.2,
    "popularity, 30 d": 0.2,
    "popularity, 90 d": 0.2,
    DOTS: 0.15,
    HEAD: 0.15,
}


def prior_weights() -> np.ndarray:
    """Float64 [channels, facts]: the same for every user."""
    weights = np.zeros((len(CHANNELS), len(FACTS)))
    weights[:, 0] = [PRIOR.get(name, 0.0) for name in CHANNELS]
    return weights


def fit_blend(question: Question, prepared: Preparation, known: Evidence, network: ModelScorer, *, seed: int) -> Blend:
    """Fits on the users of a question; the tables are those of the question's cut.

    The ridge is the one whose weights explain best what users left out of the fit went on to meet; the calibration is
    learnt from scores of users left out, too.
    """
    neighbours = neighbours_of(known)
    windows = popularity_windows(prepared.fit, prepared.tables.item_row, prepared.num_rows, question.moments.as_of_us)
    sheet = make_sheet(question, prepared.tables.item_row, prepared.num_rows)
    drawing = _Drawing(
        sheet=sheet,
        network=network,
        windows=windows,
        matrices=neighbours.matrices,
        rng=np.random.default_rng([seed, 3]),
    )
    scales, sample = drawing.sample()
    users = len(sample.fold)
    blend = Blend(
        neighbours=neighbours,
        popularity=windows.features[-1],
        scales=scales,
        rank=usual_mix(with_head=True),
        retrieve=usual_mix(with_head=False),
        ridge=0.0,
        users=users,
        note=f"{users} users to learn from, {LEAST_USERS} are needed: everybody has the usual weights",
    )
    if users < LEAST_USERS:
        return blend
    ridge, left_out = _choose_ridge(sample)
    return replace(
        blend,
        rank=_fit_mix(sample, prior_weights(), ridge, left_out),
        retrieve=_fit_mix(sample.without_head(), _without_head(prior_weights()), ridge),
        ridge=ridge,
        note="",
    )


def _fit_mix(sample: Sample, prior: np.ndarray, ridge: float, left_out: list[np.ndarray] | None = None) -> Mix:
    weights = fit_lists(sample.lists, prior=prior, ridge=ridge)
    calibration = _calibrate(sample, left_out or [weights] * FOLDS)
    return Mix(weights=weights.astype(np.float32), calibration=calibration.astype(np.float32))


def usual_mix(*, with_head: bool) -> Mix:
    """The same for every user, not calibrated."""
    weights = prior_weights() if with_head else _without_head(prior_weights())
    calibration = np.eye(2, len(FACTS), dtype=np.float32)
    calibration[1] = 0.0
    return Mix(weights=weights.astype(np.float32), calibration=calibration)


def _without_head(weights: np.ndarray) -> np.ndarray:
    """All that the network says comes from its dot product."""
    moved = weights.copy()
    moved[-2] += moved[-1]
    moved[-1] = 0.0
    return moved


def _choose_ridge(sample: Sample) -> tuple[float, list[np.ndarray]]:
    """The ridge of the least loss on users left out, and the weights that were fitted without each fold."""
    best_loss, best_ridge, best = np.inf, RIDGES[0], [prior_weights()] * FOLDS
    fitted = [prior_weights()] * FOLDS
    for ridge in RIDGES:
        losses = []
        for fold in range(FOLDS):
            rest = sample.lists.take(np.flatnonzero(sample.fold != fold))
            fitted[fold] = fit_lists(rest, prior=prior_weights(), ridge=ridge, start=fitted[fold])
            own = np.flatnonzero(sample.fold == fold)
            losses.append(sample.lists.take(own).loss(fitted[fold]) * len(own))
        if sum(losses) < best_loss:
            best_loss, best_ridge, best = sum(losses), ridge, list(fitted)
    return best_ridge, best


def _calibrate(sample: Sample, left_out: list[np.ndarray]) -> np.ndarray:
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
    facts = lists.facts[np.concatenate([user, pair_user])]
    label = np.concatenate([np.ones(len(user)), np.zeros(len(pair_user))])
    weight = np.concatenate([lists.target[user, place], np.full(len(pair_user), 1.0 / PAIRS)])
    centre, scale = float(logit.mean()), max(float(logit.std()), 1e-6)
    design = np.concatenate([facts * ((logit - centre) / scale)[:, None], facts], axis=1)
    found = fit_logistic(
        design, label, weight, prior=np.eye(1, design.shape[1]).ravel(), ridge=CALIBRATION_RIDGE
    ).reshape(2, -1)
    return np.stack([found[0] / scale, found[1] - found[0] * centre / scale])


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Lists to learn from, and uniform items that are neither past nor target to calibrate on."""

    lists: Lists
    pairs: np.ndarray  # float32 [users, pairs, channels]
    fold: np.ndarray  # int64 [users]; a user asked twice is in one fold

    def without_head(self) -> Sample:
        """As if the ranking head said nothing."""
        blank = np.ones(len(CHANNELS), np.float32)
        blank[-1] = 0.0
        return replace(self, lists=replace(self.lists, x=self.lists.x * blank), pairs=self.pairs * blank)


@dataclass(frozen=True, kw_only=True)
class _Picked:
    """Candidates of one user."""

    rows: np.ndarray  # int64 [candidates + pairs]
    target: np.ndarray  # float32 [candidates]
    log_weight: np.ndarray  # float32 [candidates]


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    """Draws the sample."""

    sheet: Sheet
    network: ModelScorer
    windows: PopularityTable
    matrices: list[sp.csr_array]
    rng: np.random.Generator

    def sample(self) -> tuple[Scales, Sample]:
        askable = np.unique(self.sheet.target_row)
        chosen = self.rng.permutation(askable)[:MOST_USERS]
        again = self.rng.random(len(chosen)) < EMPTY_SHARE
        moments = np.concatenate([chosen, chosen[again]])
        is_emptied = np.arange(len(moments)) >= len(chosen)
        fold = self.rng.integers(FOLDS, size=len(chosen))
        network = self.network.of(moments, is_emptied)
        scales = self._scales(network, ~is_emptied)
        x = np.zeros((len(moments), CANDIDATES, len(CHANNELS)), np.float32)
        pairs = np.zeros((len(moments), PAIRS, len(CHANNELS)), np.float32)
        target = np.zeros((len(moments), CANDIDATES), np.float32)
        log_weight = np.full((len(moments), CANDIDATES), -np.inf, np.float32)
        for users in self._chunks(len(moments)):
            known = catalogue_channels(
                scales,
                network.past(users),
                self._popularity(network, users),
                network.retrieval_logits(users),
                self.matrices,
            )
            picked = [
                self._pick(moments[user], one) for user, one in zip(range(users.start, users.stop), known, strict=True)
            ]
            rows = np.stack([one.rows for one in picked])
            place = np.arange(len(picked))[:, None]
            found = np.concatenate([known[place, rows], network.at(users, rows)[:, :, None]], axis=2)
            x[users], pairs[users] = found[:, :CANDIDATES], found[:, CANDIDATES:]
            target[users] = [one.target for one in picked]
            log_weight[users] = [one.log_weight for one in picked]
        size = _spread(np.where(np.isfinite(log_weight), x[:, :, -1], np.nan))
        scales = replace(scales, network=np.array([scales.network[0], size], np.float32))
        x[:, :, -1] /= scales.network[1]
        pairs[:, :, -1] /= scales.network[1]
        facts = scales.of_facts(network.past(slice(0, len(moments))).facts())
        lists = Lists(x=x, target=target, log_weight=log_weight, facts=facts)
        return scales, Sample(lists=lists, pairs=pairs, fold=np.concatenate([fold, fold[again]]))

    def _chunks(self, count: int) -> Iterator[slice]:
        size = max(1, CELLS_PER_CHUNK // (self.sheet.num_rows * len(CHANNELS)))
        return (slice(start, min(start + size, count)) for start in range(0, count, size))

    def _popularity(self, network: ModelScorer, users: slice) -> np.ndarray:
        return np.asarray(self.windows.features[self.windows.periods(network.as_of_us[users])])

    def _scales(self, network: ModelScorer, has_past: np.ndarray) -> Scales:
        """Evidence is measured by what the best item of a user has, where anything speaks for it."""
        facts = network.past(slice(0, len(has_past))).facts()[has_past]
        mean, deviation = np.zeros(len(FACTS), np.float32), np.ones(len(FACTS), np.float32)
        known = facts[~np.isnan(facts).any(axis=1)]
        if len(known):
            mean[1:3], deviation[1:3] = known[:, 1:3].mean(axis=0), np.maximum(known[:, 1:3].std(axis=0), 0.25)
        measured = list(self._chunks(min(SCALE_USERS, int(has_past.sum()))))
        best = [evidence(network.past(users), self.matrices).max(axis=1) for users in measured]
        dots = [network.retrieval_logits(users) for users in measured]
        strongest = np.concatenate(best) if best else np.zeros((0, len(MATRICES), len(FADINGS)))
        count = np.maximum((strongest > 0).sum(axis=0), 1)
        size = strongest.sum(axis=0) / count
        return Scales(
            evidence=np.where(size > 0, size, 1.0).astype(np.float32),
            network=np.array([_spread(np.concatenate(dots)) if dots else 1.0, 1.0], np.float32),
            facts_mean=mean,
            facts_deviation=deviation,
        )

    def _pick(self, moment: int, known: np.ndarray) -> _Picked:
        """Targets, the strongest others by each channel, and uniform ones that stand for the rest."""
        is_past, is_target = (marks[0] for marks in self.sheet.dense(slice(moment, moment + 1)))
        targets = np.flatnonzero(is_target)
        targets = self.rng.permutation(targets)[:MOST_TARGETS]
        others = np.flatnonzero(~is_past & ~is_target)
        count = min(STRONGEST, len(others))
        hard = np.zeros(0, np.int64)
        if count:
            strongest = np.argpartition(-known[others], count - 1, axis=0)[:count]
            hard = self.rng.permutation(np.unique(strongest))[:MOST_HARD]
        rest = np.delete(np.arange(len(others)), hard)
        space = min(len(rest), CANDIDATES - len(targets) - len(hard))
        uniform = self.rng.choice(rest, space, replace=False) if space else np.zeros(0, np.int64)
        rows = np.zeros(CANDIDATES + PAIRS, np.int64)
        target = np.zeros(CANDIDATES, np.float32)
        log_weight = np.full(CANDIDATES, -np.inf, np.float32)
        filled = len(targets) + len(hard) + space
        rows[:filled] = np.concatenate([targets, others[hard], others[uniform]])
        target[: len(targets)] = 1.0 / max(1, len(targets))
        log_weight[: filled - space] = 0.0
        log_weight[filled - space : filled] = np.log(max(1, len(rest)) / max(1, space))
        if len(others):
            rows[CANDIDATES:] = self.rng.choice(others, PAIRS)
        return _Picked(rows=rows, target=target, log_weight=log_weight)


def _spread(logits: np.ndarray) -> float:
    """How much a user's logits [users, items] differ, NaN left out."""
    return max(float(np.nanmean(np.nanstd(logits, axis=1))), 1e-3) if len(logits) else 1.0
