"""Item-to-item matrices in closed form: ItemKNN, EASE, transitions, content. `matrix[i, j]` is what i says for j.

    ItemKNN      cosine of the items' user sets, shrunk, the nearest kept
    EASE         B = I − P · diag(1 / diag P), P = (XᵀX + λI)⁻¹: each item from all others (Steck 2019)
    transitions  B = (PᵀP + λI)⁻¹ PᵀF: what follows from what came before, both fading with distance
                 (the linear session model SLIT of Choi et al. 2021)
    content      cosine of the items' TF-IDF vectors

They learn from *discoveries*: each user's items in the order of first meeting. EASE and transitions invert a matrix of
the catalogue; beyond `MAX_DENSE_ITEMS` they know the most popular items alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from training.log.engagements import Engagements
from training.vocabulary import FIRST_ROW

MAX_DENSE_ITEMS = 15_000
NEAREST = 200  # neighbours that ItemKNN and content keep
SHRINKAGE = 10.0  # of the cosine: so many users more would have to agree
EASE_RIDGE = 250.0
TRANSITION_RIDGE = 20.0
TRANSITION_WINDOW = 20  # items before and after
FADING = 2.0  # items until a neighbour in the sequence counts 1/e
LONGEST = 500  # discoveries of one user, the latest; more would make one user outweigh many

Matrix = sp.csr_array | np.ndarray  # float32 [rows, rows]


@dataclass(frozen=True, kw_only=True)
class Discoveries:
    """Each user's items, once each, in the order of first meeting."""

    user: np.ndarray  # int64 [discoveries], sorted
    row: np.ndarray  # int64 [discoveries], item row of the model
    before: np.ndarray  # int64 [discoveries], discoveries of the same user before it
    after: np.ndarray  # int64 [discoveries], and after it
    num_rows: int

    def matrix(self) -> sp.csr_array:
        """Users × rows, 1 where the user met the item."""
        shape = (int(self.user.max()) + 1, self.num_rows)
        return sp.csr_array((np.ones(len(self.user), np.float32), (self.user, self.row)), shape=shape)


def discoveries(log: Engagements, item_row: np.ndarray, num_rows: int) -> Discoveries:
    """The discoveries of known items in a log, at most the latest `LONGEST` of each user."""
    new = log.where(log.first_of_each_item() & (item_row[log.item] >= FIRST_ROW))
    after = new.starts[new.user + 1] - 1 - np.arange(len(new))
    new = new.where(after < LONGEST)
    starts = new.starts
    return Discoveries(
        user=new.user.astype(np.int64),
        row=item_row[new.item].astype(np.int64),
        before=np.arange(len(new)) - starts[new.user],
        after=starts[new.user + 1] - 1 - np.arange(len(new)),
        num_rows=num_rows,
    )


def item_knn(met: Discoveries) -> sp.csr_array:
    """Shrunk cosine of co-occurrence, the nearest of each item; [rows, rows] without a diagonal."""
    users = met.matrix()
    together = sp.csr_array(users.T @ users).tocoo()
    count = np.asarray(users.sum(axis=0)).ravel()
    norm = np.sqrt(count[together.row] * count[together.col]) + SHRINKAGE
    keep = together.row != together.col
    cosine = sp.csr_array(
        (together.data[keep] / norm[keep], (together.row[keep], together.col[keep])), shape=together.shape
    )
    return nearest(cosine, NEAREST)


def ease(met: Discoveries, *, ridge: float = EASE_RIDGE) -> Matrix:
    """Float32 [rows, rows]: column j holds the weights that predict j from all other items."""
    chosen = _most_met(met)
    users = met.matrix()[:, chosen]
    gram = np.asarray((users.T @ users).todense(), np.float32)
    gram[np.diag_indices_from(gram)] += ridge
    inverse = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False)
    inverse /= -np.diag(inverse)
    inverse[np.diag_indices_from(inverse)] = 0.0
    return _spread(inverse, chosen, met.num_rows)


def transitions(met: Discoveries, *, ridge: float = TRANSITION_RIDGE) -> Matrix:
    """Float32 [rows, rows]: from the items before a place in a user's sequence to those after it."""
    chosen = _most_met(met)
    past, future = _around(met, -1)[:, chosen], _around(met, 1)[:, chosen]
    gram = np.asarray((past.T @ past).todense(), np.float32)
    gram[np.diag_indices_from(gram)] += ridge
    follows = np.asarray((past.T @ future).todense(), np.float32)
    factor = scipy.linalg.cho_factor(gram, overwrite_a=True, check_finite=False)
    learnt = scipy.linalg.cho_solve(factor, follows, overwrite_b=True, check_finite=False)
    return _spread(learnt, chosen, met.num_rows)


def _around(met: Discoveries, direction: int) -> sp.csr_array:
    """Places × rows: the items up to a place (−1) or after it (+1), fading with distance from it.

    A place is a discovery that another follows.
    """
    place = np.flatnonzero(met.after > 0)
    rows, columns, weights = [], [], []
    for distance in range(TRANSITION_WINDOW):
        reaches = met.before[place] >= distance if direction < 0 else met.after[place] > distance
        at = place[reaches]
        rows.append(np.flatnonzero(reaches))
        columns.append(met.row[at - distance] if direction < 0 else met.row[at + distance + 1])
        weights.append(np.full(len(at), np.exp(-distance / FADING), np.float32))
    index = (np.concatenate(rows), np.concatenate(columns))
    return sp.csr_array((np.concatenate(weights), index), shape=(len(place), met.num_rows))


def content(vectors: sp.csr_array) -> sp.csr_array:
    """Cosine of TF-IDF vectors [rows, terms] of length 1, the nearest of each item; an item without text has none."""
    blocks = []
    for start in range(0, vectors.shape[0], 1000):
        block = sp.csr_array(vectors[start : start + 1000] @ vectors.T).tocoo()
        keep = block.col != block.row + start
        kept = sp.csr_array((block.data[keep], (block.row[keep], block.col[keep])), shape=block.shape)
        blocks.append(nearest(kept, NEAREST))
    return sp.csr_array(sp.vstack(blocks))


def nearest(matrix: Matrix, count: int) -> sp.csr_array:
    """The `count` largest entries, by size without sign, of each row."""
    kept = sp.csr_array(matrix).tocoo()
    order = np.lexsort((-np.abs(kept.data), kept.row))
    row = kept.row[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    order = order[(rank < count) & (kept.data[order] != 0)]
    index = (kept.row[order], kept.col[order])
    return sp.csr_array((kept.data[order].astype(np.float32), index), shape=matrix.shape)


def _most_met(met: Discoveries) -> np.ndarray:
    """Item rows, the most met ones where there are too many, in ascending order."""
    count = np.bincount(met.row, minlength=met.num_rows)
    most = np.argsort(-count, kind="stable")[:MAX_DENSE_ITEMS]
    return np.sort(most[count[most] > 0])


def _spread(matrix: np.ndarray, chosen: np.ndarray, num_rows: int) -> Matrix:
    """The matrix of the chosen rows as one of all rows; where items were left out only their nearest, 0 elsewhere."""
    if len(chosen) < MAX_DENSE_ITEMS:
        spread = np.zeros((num_rows, num_rows), np.float32)
        spread[np.ix_(chosen, chosen)] = matrix
        return spread
    kept = nearest(matrix, NEAREST).tocoo()
    return sp.csr_array((kept.data, (chosen[kept.row], chosen[kept.col])), shape=(num_rows, num_rows))
