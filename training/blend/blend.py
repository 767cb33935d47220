"""The blend: what the parts say of an item, weighed by how well the user is known.

    x_ui = [evidence of each matrix and fading, popularity of each window, the network's logits]    # the channels
    f_u  = [1, how long the history is, how long ago its last event was, whether it is empty]       # the facts
    z_ui = Σ_c (Θ f_u)_c · x_uic
    p_ui = σ((A f_u)_1 · z_ui + (A f_u)_2)

Evidence is Σ over the user's items of fading(n) · value(item → candidate), n = 0 for the newest, taken as log(1 + 10·):
the first who speaks for an item says more than the tenth. Θ is learnt on validation (`blend_fitting`), A calibrates.
`rank` and `retrieve` have a Θ and an A each: for the whole catalogue the network's ranking head is too slow, so that
`retrieve` knows its dot product alone. Every term of z is a product of one weight and one channel, so a score can be
read term by term.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import scipy.sparse as sp

from training.blend.calibration import LEAST_SLOPE
from training.blend.neighbours import MATRICES, Neighbours
from training.log.engagements import Engagements
from training.log.popularity import DAY_US, PopularityTable
from training.vocabulary import FIRST_ROW

FADINGS: Final = (2.0, 8.0, np.inf)  # items until a part of the history counts 1/e
WINDOWS_DAYS: Final = (1, 3, 7, 30, 90, 365)
SHARPNESS: Final = 10.0  # evidence x of the usual size 1 counts log(1 + 10 x)
FACTS: Final = ("always", "history", "gap", "empty")
FACT_LIMIT: Final = 2.5  # standard deviations: nobody is further out than validation has seen
DOTS, HEAD = "network, retrieval", "network, ranking head"

EVIDENCE_CHANNELS: Final = tuple(
    f"{matrix}, {'whole history' if np.isinf(fading) else f'fading {fading:g}'}"
    for matrix in MATRICES
    for fading in FADINGS
)
POPULARITY_CHANNELS: Final = (*(f"popularity, {days} d" for days in WINDOWS_DAYS), "popularity, all time", "age")
CHANNELS: Final = (*EVIDENCE_CHANNELS, *POPULARITY_CHANNELS, DOTS, HEAD)


@dataclass(frozen=True, kw_only=True)
class Past:
    """Users at moments, as the signatures see them."""

    items: np.ndarray  # int32 [moments, history], item rows, newest first, 0 pads
    age_s: np.ndarray  # float32 [moments, history]

    def fadings(self) -> np.ndarray:
        """Float32 [moments, history, fadings]: what each place counts, 0 where its item is unknown or came later."""
        is_met = self.items >= FIRST_ROW
        same = self.items[:, :, None] == self.items[:, None, :]
        is_first = is_met & ~np.tril(same, -1).any(axis=2)
        place = np.cumsum(is_first, axis=1) - 1
        faded = np.exp(-place[:, :, None] / np.asarray(FADINGS, np.float32))
        return np.where(is_first[:, :, None], faded, 0.0).astype(np.float32)

    def facts(self) -> np.ndarray:
        """Float32 [moments, facts], not standardised."""
        items = (self.fadings()[:, :, -1] > 0).sum(axis=1)
        gap_days = np.maximum(self.age_s[:, 0], 0.0) / 86_400.0
        is_empty = items == 0
        known = np.stack([np.log1p(items), np.log1p(gap_days)], axis=1)
        return np.column_stack([np.ones(len(items)), np.where(is_empty[:, None], np.nan, known), is_empty]).astype(
            np.float32
        )


@dataclass(frozen=True, kw_only=True)
class Scales:
    """What brings channels and facts to the size of 1, measured on validation."""

    evidence: np.ndarray  # float32 [matrices, fadings]
    network: np.ndarray  # float32 [2], of the dot product and of the ranking head
    facts_mean: np.ndarray  # float32 [facts]
    facts_deviation: np.ndarray  # float32 [facts]

    def of_facts(self, facts: np.ndarray) -> np.ndarray:
        """Standardised and limited; what is not known is average."""
        scaled = (facts - self.facts_mean) / self.facts_deviation
        return np.asarray(np.clip(np.nan_to_num(scaled, nan=0.0), -FACT_LIMIT, FACT_LIMIT), np.float32)

    def of_evidence(self, evidence: np.ndarray) -> np.ndarray:
        """[..., matrices, fadings] → [..., matrices × fadings]."""
        scaled = np.log1p(SHARPNESS * evidence / self.evidence) / np.float32(np.log1p(SHARPNESS))
        return np.asarray(scaled.reshape(*evidence.shape[:-2], -1))


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What one signature makes of the channels."""

    weights: np.ndarray  # float32 [channels, facts], Θ
    calibration: np.ndarray  # float32 [2, facts], A

    @property
    def reads_head(self) -> bool:
        return bool(self.weights[-1].any())

    def calibrated(self, logits: np.ndarray, facts: np.ndarray) -> np.ndarray:
        """The log-odds of engagement: logits [moments, items] in the same order for each user."""
        slope, offset = (facts @ self.calibration.T).T
        return np.asarray(np.maximum(slope, LEAST_SLOPE)[:, None] * logits + offset[:, None])


@dataclass(frozen=True, kw_only=True)
class Blend:
    """A fitted blend with the tables of one moment."""

    neighbours: Neighbours
    popularity: np.ndarray  # float32 [rows, popularity channels], at the end of the training window
    scales: Scales
    rank: Mix
    retrieve: Mix
    ridge: float  # 0 where nothing was fitted
    users: int  # fitted on
    note: str = ""  # why it was not fitted

    def at(self, neighbours: Neighbours, popularity: np.ndarray) -> Blend:
        """The same weights with what is known at another time."""
        return replace(self, neighbours=neighbours, popularity=popularity)

    def of_rows(self, count: int) -> Blend:
        """The blend of the first item rows alone."""
        return replace(self, neighbours=self.neighbours.of_rows(count), popularity=self.popularity[:count])

    def logits(
        self, mix: Mix, past: Past, popularity: np.ndarray, *, dots: np.ndarray, head: np.ndarray | None
    ) -> np.ndarray:
        """Calibrated log-odds [moments, rows]; popularity [moments, rows, P], the network's logits [moments, rows]."""
        facts = self.scales.of_facts(past.facts())
        weights = facts @ mix.weights.T  # [moments, channels]
        known = catalogue_channels(self.scales, past, popularity, dots, self.neighbours.matrices)
        logits = np.matmul(known, weights[:, :-1, None])[:, :, 0]
        if head is not None:
            logits += weights[:, -1:] * head / self.scales.network[1]
        return mix.calibrated(logits, facts)


def catalogue_channels(
    scales: Scales, past: Past, popularity: np.ndarray, dots: np.ndarray, matrices: list[sp.csr_array]
) -> np.ndarray:
    """All channels but the ranking head: float32 [moments, rows, channels − 1]."""
    found = scales.of_evidence(evidence(past, matrices))
    return np.concatenate([found, popularity, dots[:, :, None] / scales.network[0]], axis=2)


def evidence(past: Past, matrices: list[sp.csr_array]) -> np.ndarray:
    """Float32 [moments, rows, matrices, fadings]."""
    faded = past.fadings()
    moments, rows = len(past.items), matrices[0].shape[0]
    found = np.zeros((moments, rows, len(matrices), faded.shape[2]), np.float32)
    moment, place = np.nonzero(faded[:, :, -1])
    for number in range(faded.shape[2]):
        index = (moment, past.items[moment, place])
        weights = sp.csr_array((faded[moment, place, number], index), shape=(moments, rows))
        for kind, matrix in enumerate(matrices):
            found[:, :, kind, number] = (weights @ matrix).toarray()
    return found


def popularity_windows(fit: Engagements, item_row: np.ndarray, num_rows: int, as_of_us: np.ndarray) -> PopularityTable:
    """The popularity channels at these times, or at as many of them as fit; each window relative to the mean item.

    Discoveries are counted: what is met again says less of what is met next.
    """
    met = fit.where(fit.first_of_each_item())
    rows = item_row[met.item]
    times = np.unique(as_of_us)
    most = max(1, MAX_PERIOD_CELLS // (num_rows * len(POPULARITY_CHANNELS)))
    if len(times) > most:
        times = np.quantile(times, np.linspace(0, 1, most), method="lower").astype(np.int64)
    return PopularityTable(
        starts_us=times, features=np.stack([_popularity_at(rows, met.time_us, num_rows, int(at)) for at in times])
    )


MAX_PERIOD_CELLS: Final = 8_000_000


def _popularity_at(rows: np.ndarray, times_us: np.ndarray, num_rows: int, as_of_us: int) -> np.ndarray:
    before = times_us < as_of_us
    rows, times = rows[before], times_us[before]
    columns = []
    for days in (*WINDOWS_DAYS, np.inf):
        counts = np.bincount(rows if np.isinf(days) else rows[times >= as_of_us - days * DAY_US], minlength=num_rows)
        columns.append(np.log1p(counts) - np.log1p(counts.sum() / num_rows))
    first = np.full(num_rows, as_of_us, np.int64)
    np.minimum.at(first, rows, times)
    columns.append(np.log1p((as_of_us - first) / DAY_US) / 5.0)
    return np.stack(columns, axis=1).astype(np.float32)
