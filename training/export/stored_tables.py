"""The large tables of a model inside its graph: gathered first, decoded after. Imports TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import tensorflow as tf

from training.artifact import TrainedModel
from training.blend.neighbours import Neighbours
from training.model import build
from training.network.blocks import CandidateAttention
from training.network.compression import (
    BYTE,
    LOW_BITS,
    Compression,
    halves,
    planes,
    product_codes,
    root_bytes,
    signed_bytes,
)

NUMBERS_AT_ONCE: Final = 2**19  # decoded at a time for the whole catalogue: 2 MB, which fit into the cache


class Table(tf.Module):  # type: ignore[misc]  # the library ships no types
    """Rows of numbers as they are kept. Variables: a constant would be decoded once and kept large."""

    def __init__(self, *stored: np.ndarray) -> None:
        super().__init__()
        self._stored = [tf.Variable(each, trainable=False) for each in stored]

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """int32 [...] → what these rows hold [..., width]."""
        return self._decoded([tf.gather(each, rows) for each in self._stored])

    def picked(self, rows: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        """Of `gather(rows)`, laid out flat, the numbers at int64 places [picked] alone.

        Whole rows are copied, from one place each; single numbers picked from all over the table cost more.
        """
        width = self._stored[0].shape[-1]
        return self._decoded(
            [
                tf.gather(tf.reshape(tf.gather(each, rows), [-1]), places // (width // each.shape[-1]))
                for each in self._stored
            ]
        )

    def dots(self, users: tf.Tensor) -> tf.Tensor:
        """float32 [batch, width] → their products with every row [batch, rows]; no more than a block is decoded.

        Blocks are gathered: a variable that is gathered from elsewhere is copied as a whole each time it is read.
        """
        count, size = self._stored[0].shape[0], max(1, NUMBERS_AT_ONCE // users.shape[1])
        blocks = -(-count // size)

        def add(block: tf.Tensor, found: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            rows = tf.range(block * size, tf.minimum((block + 1) * size, count))
            products = self._products(users, [tf.gather(each, rows) for each in self._stored])
            return block + 1, found.write(block, tf.transpose(products))

        found = tf.TensorArray(tf.float32, blocks, infer_shape=False, element_shape=[None, None])
        _, found = tf.while_loop(lambda block, _: block < blocks, add, (0, found), parallel_iterations=1)
        return tf.transpose(found.concat())

    def whole(self) -> np.ndarray:
        """What every row holds, decoded."""
        return np.asarray(self._decoded([each.value() for each in self._stored]))

    def _products(self, users: tf.Tensor, stored: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.matmul(users, self._decoded(stored), transpose_b=True)

    def _decoded(self, stored: Sequence[tf.Tensor]) -> tf.Tensor:
        raise NotImplementedError


class PlainTable(Table):
    """As they are."""

    def _decoded(self, stored: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.identity(stored[0])


class TwiceKeptTable(PlainTable):
    """As they are, and once more for `dots`: a variable that nothing gathers from is read where it lies."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__(values)
        self._whole = tf.Variable(values, trainable=False)

    def dots(self, users: tf.Tensor) -> tf.Tensor:
        return tf.matmul(users, self._whole, transpose_b=True)


class HalfTable(Table):
    """In half precision."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__(halves(values))

    def _decoded(self, stored: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.cast(stored[0], tf.float32)


class ByteTable(Table):
    """A byte each, a scale for each row."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__(*signed_bytes(values))

    def _decoded(self, stored: Sequence[tf.Tensor]) -> tf.Tensor:
        codes, scale = stored
        return tf.cast(codes, tf.float32) * scale

    def _products(self, users: tf.Tensor, stored: Sequence[tf.Tensor]) -> tf.Tensor:
        codes, scale = stored  # the product is scaled, not the codes: a row is one number there
        return tf.matmul(users, tf.cast(codes, tf.float32), transpose_b=True) * scale[:, 0]


class ProductTable(Table):
    """A byte for four numbers at a time, a scale for each row, and what the bytes stand for."""

    def __init__(self, values: np.ndarray) -> None:
        codes, scale, books = product_codes(values)
        super().__init__(codes, scale)
        parts, codes_each, part = books.shape
        self._books = tf.Variable(books.reshape(-1, part), trainable=False)  # [parts × codes, part]
        self._starts = np.arange(parts, dtype=np.int32) * codes_each
        self._width = values.shape[1]

    def _directions(self, codes: tf.Tensor) -> tf.Tensor:
        found = tf.gather(self._books, tf.cast(codes, tf.int32) + self._starts)  # [..., parts, part]
        joined = tf.reshape(found, tf.concat([tf.shape(codes)[:-1], [-1]], axis=0))[..., : self._width]
        return tf.ensure_shape(joined, [*codes.shape[:-1], self._width])

    def _decoded(self, stored: Sequence[tf.Tensor]) -> tf.Tensor:
        return self._directions(stored[0]) * stored[1]

    def _products(self, users: tf.Tensor, stored: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.matmul(users, self._directions(stored[0]), transpose_b=True) * stored[1][:, 0]


class RootTable(Table):
    """A byte each for the root of what is 0 or more, a scale for each row."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__(*root_bytes(values))

    def _decoded(self, stored: Sequence[tf.Tensor]) -> tf.Tensor:
        codes, scale = stored
        return tf.square(tf.cast(codes, tf.float32) / BYTE) * scale


class NumberTable(Table):
    """Whole numbers from 0 on, two or three bytes each."""

    def __init__(self, numbers: np.ndarray) -> None:
        super().__init__(*planes(numbers))

    def _decoded(self, stored: Sequence[tf.Tensor]) -> tf.Tensor:
        low, *high = (tf.cast(each, tf.int32) for each in stored)
        return low + tf.bitwise.left_shift(high[0], LOW_BITS) if high else low


class HeadTable(tf.Module):  # type: ignore[misc]  # the library ships no types
    """What the ranking head makes of each item."""

    def __init__(self, attention: CandidateAttention, vectors: np.ndarray) -> None:
        super().__init__()
        made = (np.moveaxis(np.asarray(each), 0, 1) for each in attention.of_items(vectors))
        self._of_items = [tf.Variable(each, trainable=False) for each in made]  # [rows, heads, ...]

    def gather(self, rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """int32 [batch, candidates] → as `CandidateAttention.of_items` would, [heads, batch, candidates, ...]."""
        return tuple(tf.transpose(tf.gather(each, rows), (2, 0, 1, 3)) for each in self._of_items)


@dataclass(frozen=True, kw_only=True)
class StoredTables:
    """What of a model grows with the catalogue."""

    items: Table  # [rows, width]
    popularity: Table  # [rows, P]
    neighbours: Table  # int32 [rows, matrices, neighbours]
    neighbour_values: Table  # [rows, matrices, neighbours]
    windows: Table  # [rows, popularity channels]
    head: HeadTable | None  # none where bytes matter more than time: the head is computed from the vectors


def store(model: TrainedModel, compression: Compression) -> StoredTables:
    """The tables of a model; popularity is in half precision at least: it is small, and adds up to much."""
    small = TwiceKeptTable if compression == "none" else HalfTable
    items, values = {
        "none": (TwiceKeptTable, PlainTable),
        "float16": (HalfTable, HalfTable),
        "int8": (ByteTable, RootTable),
        "pq": (ProductTable, RootTable),
    }[compression]
    near, vectors = model.blend.neighbours, np.asarray(model.recommender.items.embeddings)
    return StoredTables(
        items=items(vectors),
        popularity=small(model.popularity),
        neighbours=PlainTable(near.rows) if compression == "none" else NumberTable(near.rows),
        neighbour_values=values(near.values),
        windows=small(model.blend.popularity),
        head=HeadTable(model.recommender.attention, vectors) if compression == "none" else None,
    )


def as_served(model: TrainedModel, compression: Compression) -> TrainedModel:
    """The model that answers: what is left of its tables, decoded. What is measured of it is true of its export."""
    return model if compression == "none" else with_tables(model, store(model, compression))


def with_tables(model: TrainedModel, stored: StoredTables) -> TrainedModel:
    """The model with what these tables decode to."""
    recommender = build(model.shape)
    recommender.set_weights(model.recommender.get_weights())
    recommender.fill_values = model.recommender.fill_values
    recommender.items.embeddings.assign(stored.items.whole())
    near = Neighbours(rows=stored.neighbours.whole(), values=stored.neighbour_values.whole())
    return replace(
        model,
        recommender=recommender,
        popularity=stored.popularity.whole(),
        blend=model.blend.at(near, stored.windows.whole()),
    )
