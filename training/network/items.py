"""The items' vectors: an embedding of its own for each item, and what the catalogue says of it.

    h_i = E_i + Σ_t w_it T_t        t over the item's terms (words, categories, price), w_i of length 1

In training E_i is left out now and then, so that the terms alone say what they can: that is all a cold item has. A
trained table is folded: one vector per item, the cold items of the catalogue included, and no terms any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import scipy.sparse as sp
from keras import ops

from training.network.shape import ModelShape
from training.vocabulary import FIRST_ROW, PADDING

SAID_AT_ONCE = 16_384  # rows; about as many are asked for in a training step, most of them several times


@dataclass(frozen=True, kw_only=True)
class ItemTerms:
    """What the catalogue says, the weightiest terms of each row; 0 pads."""

    ids: np.ndarray  # int32 [rows, terms]
    weights: np.ndarray  # float32 [rows, terms], of length 1 or 0
    names: np.ndarray  # str [terms]; term k is row 1 + k of the table
    cold_ids: np.ndarray  # str [cold], items of the catalogue without an event; their rows are the last

    @property
    def num_terms(self) -> int:
        return len(self.names)

    @property
    def num_warm_rows(self) -> int:
        return len(self.ids) - len(self.cold_ids)


def item_terms(vectors: sp.csr_array, names: np.ndarray, cold_ids: np.ndarray, *, most: int) -> ItemTerms:
    """The `most` weightiest of the terms [terms] of each row of TF-IDF vectors [rows, terms], scaled to length 1."""
    entries = vectors.tocoo()
    order = np.lexsort((-entries.data, entries.row))
    row, column, weight = entries.row[order], entries.col[order], entries.data[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    kept = place < most
    ids = np.zeros((vectors.shape[0], most), np.int32)
    weights = np.zeros((vectors.shape[0], most), np.float32)
    ids[row[kept], place[kept]] = column[kept] + 1
    weights[row[kept], place[kept]] = weight[kept]
    length = np.linalg.norm(weights, axis=1, keepdims=True)
    return ItemTerms(ids=ids, weights=weights / np.maximum(length, 1e-9), names=names, cold_ids=cold_ids)


class ItemTable(keras.layers.Layer):  # type: ignore[misc]  # the library ships no types
    """Rows of items → their vectors."""

    def __init__(self, shape: ModelShape, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        rows, width = shape.num_items + FIRST_ROW, shape.embedding_size
        narrow = shape.encoder == "attention"
        initializer = "uniform" if narrow else keras.initializers.RandomNormal(stddev=0.02)
        self.embeddings = self.add_weight(shape=(rows, width), initializer=initializer, name="embeddings")
        self.has_terms, self.own_dropout = shape.num_terms > 0, shape.own_dropout
        if self.has_terms:
            spread = keras.initializers.RandomNormal(stddev=0.02)
            self.terms = self.add_weight(shape=(shape.num_terms + 1, width), initializer=spread, name="terms")
            known = (rows, shape.terms_per_item)
            self.term_ids = self.add_weight(
                shape=known, initializer="zeros", dtype="int32", trainable=False, name="term_ids"
            )
            self.term_weights = self.add_weight(shape=known, initializer="zeros", trainable=False, name="term_weights")
            self.seeds = keras.random.SeedGenerator()

    def know(self, terms: ItemTerms) -> None:
        """Takes what the catalogue says of the warm items."""
        self.term_ids.assign(terms.ids[: terms.num_warm_rows])
        self.term_weights.assign(terms.weights[: terms.num_warm_rows])

    def call(self, rows: Any, training: bool = False, said: Any = None) -> Any:
        """int32 [...] → [..., width]; `said` is what `said_of_all` gave, where it is at hand."""
        own = ops.take(self.embeddings, rows, axis=0)
        if not self.has_terms:
            return own
        if training and self.own_dropout > 0:
            is_kept = keras.random.uniform(ops.shape(own)[:-1], seed=self.seeds) >= self.own_dropout
            own = ops.where(is_kept[..., None], own, ops.zeros_like(own))
        if said is not None:
            return own + ops.take(said, rows, axis=0)
        return own + self._said(ops.take(self.term_ids, rows, axis=0), ops.take(self.term_weights, rows, axis=0))

    def said_of_all(self) -> Any:
        """Σ_t w_it T_t of every row [rows, width], for a step that asks for most of them; None of a large table."""
        if not self.has_terms or self.term_ids.shape[0] > SAID_AT_ONCE:
            return None
        return self._said(self.term_ids, self.term_weights)

    def _said(self, ids: Any, weights: Any) -> Any:
        return ops.sum(ops.take(self.terms, ids, axis=0) * weights[..., None], axis=-2)

    def folded(self, terms: ItemTerms | None) -> np.ndarray:
        """One vector for each row, float32 [rows, width]; the cold items of `terms` follow the warm ones."""
        own = np.asarray(self.embeddings)
        if terms is None:
            return own
        said = np.zeros((len(terms.ids), own.shape[1]), np.float32)
        meanings = np.asarray(self.terms)
        for term in range(terms.ids.shape[1]):
            said += meanings[terms.ids[:, term]] * terms.weights[:, term, None]
        said[: terms.num_warm_rows] += own
        said[PADDING] = 0.0
        return said
