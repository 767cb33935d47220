"""Item-to-item matrices cut to the nearest of each item: what the blend keeps, and what fits into a graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import scipy.sparse as sp

from training.blend.evidence import Evidence
from training.blend.similarity import Matrix
from training.vocabulary import PADDING

MATRICES: Final = ("ease", "transitions", "item_knn", "content")
NEIGHBOURS: Final = 128  # of each item and matrix
MAX_ENTRIES: Final = 32_000_000  # of all matrices; a larger catalogue keeps fewer neighbours
CELLS_PER_BLOCK: Final = 8_000_000


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The nearest items of each item by each matrix, best first; row 0 with value 0 pads."""

    rows: np.ndarray  # int32 [rows, matrices, neighbours]
    values: np.ndarray  # float32 [rows, matrices, neighbours], above 0

    @cached_property
    def matrices(self) -> list[sp.csr_array]:
        """Each as a matrix [rows, rows]."""
        count, width = self.rows.shape[0], self.rows.shape[2]
        pointers = np.arange(count + 1) * width
        shape = (count, count)
        return [
            sp.csr_array((self.values[:, place].ravel(), self.rows[:, place].ravel(), pointers), shape=shape)
            for place in range(self.rows.shape[1])
        ]

    def of_rows(self, count: int) -> Neighbours:
        """Without the items from row `count` on."""
        rows, values = self.rows[:count], self.values[:count]
        is_kept = rows < count
        return Neighbours(rows=np.where(is_kept, rows, PADDING), values=np.where(is_kept, values, np.float32(0.0)))


def neighbours_kept(num_rows: int, most: int = NEIGHBOURS) -> int:
    """Of each item and matrix, in a catalogue of so many rows.

    >>> neighbours_kept(10_000), neighbours_kept(200_000)
    (128, 40)
    """
    return min(most, max(1, MAX_ENTRIES // (num_rows * len(MATRICES))))


def neighbours_of(evidence: Evidence, most: int = NEIGHBOURS) -> Neighbours:
    """What speaks for an item, `most` at most; entries below 0, what speaks against it, are left out.

    A matrix may know more items than another: those that nobody has met have content alone.
    """
    matrices = [getattr(evidence, name) for name in MATRICES]
    num_rows = max(matrix.shape[0] for matrix in matrices)
    count = neighbours_kept(num_rows, most)
    parts = [tuple(_padded(part, num_rows) for part in _largest(matrix, count)) for matrix in matrices]
    return Neighbours(
        rows=np.stack([rows for rows, _ in parts], axis=1), values=np.stack([values for _, values in parts], axis=1)
    )


def _padded(part: np.ndarray, num_rows: int) -> np.ndarray:
    return np.pad(part, ((0, num_rows - len(part)), (0, 0)))


def _largest(matrix: Matrix, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and values [rows, count] of the largest entries above 0 of each row."""
    return _largest_sparse(matrix, count) if sp.issparse(matrix) else _largest_dense(np.asarray(matrix), count)


def _largest_dense(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    num_rows, kept = matrix.shape[0], min(count, matrix.shape[1])
    rows, values = np.zeros((num_rows, count), np.int32), np.zeros((num_rows, count), np.float32)
    size = max(1, CELLS_PER_BLOCK // matrix.shape[1])
    for start in range(0, num_rows, size):
        block = matrix[start : start + size]
        largest = np.argpartition(-block, kept - 1, axis=1)[:, :kept]
        found = np.take_along_axis(block, largest, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        rows[start : start + size, :kept] = np.take_along_axis(largest, order, axis=1)
        values[start : start + size, :kept] = np.take_along_axis(found, order, axis=1)
    return _without_the_rest(rows, values)


def _largest_sparse(matrix: sp.csr_array, count: int) -> tuple[np.ndarray, np.ndarray]:
    entries = matrix.tocoo()
    order = np.lexsort((-entries.data, entries.row))
    row = entries.row[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    order, row, place = order[place < count], row[place < count], place[place < count]
    rows, values = np.zeros((matrix.shape[0], count), np.int32), np.zeros((matrix.shape[0], count), np.float32)
    rows[row, place] = entries.col[order]
    values[row, place] = entries.data[order]
    return _without_the_rest(rows, values)


def _without_the_rest(rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    speaks_for = values > 0
    return np.where(speaks_for, rows, PADDING), np.where(speaks_for, values, np.float32(0.0))
