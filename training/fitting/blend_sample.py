"""What the blend is learnt from: candidates of validation users, and what each channel says of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import scipy.sparse as sp

from training.blend.blend import CHANNELS, FACTS, FADINGS, Scales, catalogue_channels, evidence, popularity_windows
from training.blend.evidence import Evidence
from training.blend.neighbours import MATRICES, NEIGHBOURS, Neighbours, neighbours_of
from training.evaluation.asking import Sheet, make_sheet
from training.evaluation.scoring import ModelScorer
from training.examples.preparation import Preparation
from training.examples.split import Question
from training.fitting.listwise import Lists
from training.log.popularity import PopularityTable

MOST_USERS: Final = 4000
SCALE_USERS: Final = 300
EMPTY_SHARE: Final = 0.1  # so many are asked once more without their history: they stand for users who have none
MOST_TARGETS, CANDIDATES, PAIRS = 32, 320, 8  # of a user: targets, all candidates, negatives to calibrate on
STRONGEST, MOST_HARD = 12, 192  # others that each channel holds highest, and all of them
FOLDS: Final = 3
CELLS_PER_CHUNK: Final = 20_000_000  # users × rows × channels


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Lists to learn from, and uniform items that are neither past nor target to calibrate on."""

    lists: Lists
    pairs: np.ndarray  # float32 [users, pairs, channels]
    fold: np.ndarray  # int64 [users]; a user asked twice is in one fold
    moment: np.ndarray  # int64 [users], row of the question's moments

    def without(self, channels: Collection[str]) -> Sample:
        """As if these said nothing."""
        says = np.array([name not in channels for name in CHANNELS], np.float32)
        return replace(self, lists=replace(self.lists, x=self.lists.x * says), pairs=self.pairs * says)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A sample with the tables it was drawn by."""

    sample: Sample
    scales: Scales
    neighbours: Neighbours
    popularity: np.ndarray  # float32 [rows, popularity channels], at the question's cut

    def fold_of(self, moments: int) -> np.ndarray:
        """Int64 [moments] of the question; who was not drawn is in the first fold."""
        fold = np.zeros(moments, np.int64)
        fold[self.sample.moment] = self.sample.fold
        return fold


def draw(
    question: Question,
    prepared: Preparation,
    known: Evidence,
    network: ModelScorer,
    *,
    seed: int,
    most_neighbours: int = NEIGHBOURS,
) -> Drawn:
    """Draws from the users of a question; the tables are those of the question's cut."""
    neighbours = neighbours_of(known, most_neighbours)
    windows = popularity_windows(prepared.fit, prepared.tables.item_row, prepared.num_rows, question.moments.as_of_us)
    drawing = _Drawing(
        sheet=make_sheet(question, prepared.tables.item_row, prepared.num_rows),
        network=network,
        windows=windows,
        matrices=neighbours.matrices,
        rng=np.random.default_rng([seed, 3]),
    )
    scales, sample = drawing.sample()
    return Drawn(sample=sample, scales=scales, neighbours=neighbours, popularity=windows.features[-1])


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
        return scales, Sample(lists=lists, pairs=pairs, fold=np.concatenate([fold, fold[again]]), moment=moments)

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
