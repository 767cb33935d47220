"""The layers that encoders and the ranking head are made of. `keras.ops` only: they run on every Keras backend."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from training.network.fill_values import HISTORY_FROM
from training.network.shape import ModelShape

FAR_BELOW = -1e9  # a logit that no softmax sees
LARGEST = 60.0  # of a token's logit over the candidate's own: e⁶⁰ is all of the weight; tokens above share it alike


class UserFeatureNormalisation(keras.layers.Layer):  # type: ignore[misc]  # the library ships no types
    """(x − mean) / deviation with the training data's statistics; what is missing is filled with what was learnt.

    Where nothing stands in for a feature it is filled with the mean, so that it becomes 0, and its flag is set.
    """

    def __init__(self, num_features: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = self.add_weight(shape=(num_features,), initializer="zeros", trainable=False, name="mean")
        self.deviation = self.add_weight(shape=(num_features,), initializer="ones", trainable=False, name="deviation")
        self.fill = self.add_weight(
            shape=(len(HISTORY_FROM), num_features), initializer="zeros", trainable=False, name="fill"
        )
        self.has_flag = self.add_weight(shape=(num_features,), initializer="ones", trainable=False, name="has_flag")

    def learn(self, features: np.ndarray, fill: np.ndarray) -> None:
        """Takes the statistics of features [moments, F]; `fill` [groups, F] is NaN where nothing stands in."""
        known = np.where(np.isfinite(features), features, np.nan)
        has_any = np.isfinite(known).any(axis=0)
        mean, deviation = np.zeros(known.shape[1]), np.ones(known.shape[1])
        mean[has_any] = np.nanmean(known[:, has_any], axis=0)
        deviation[has_any] = np.nanstd(known[:, has_any], axis=0) + 1e-3
        self.mean.assign(mean)
        self.deviation.assign(deviation)
        self.fill.assign(np.where(np.isnan(fill), mean, fill))
        self.has_flag.assign(np.isnan(fill).any(axis=0))

    def call(self, features: Any, history_length: Any) -> Any:
        """[..., F] with NaN for missing, int32 [...] → [..., 2F]."""
        reaches = ops.greater_equal(history_length[..., None], np.array(HISTORY_FROM[1:], np.int32))
        group = ops.sum(ops.cast(reaches, "int32"), axis=-1)
        is_missing = ops.logical_not(ops.isfinite(features))
        filled = ops.where(is_missing, ops.take(self.fill, group, axis=0), features)
        scaled = ops.clip((filled - self.mean) / self.deviation, -5.0, 5.0)
        return ops.concatenate([scaled, ops.cast(is_missing, scaled.dtype) * self.has_flag], axis=-1)


class EncoderBlock(keras.layers.Layer):  # type: ignore[misc]  # the library ships no types
    """Self-attention over the history and a feed-forward layer, each normalised before and added after."""

    def __init__(self, shape: ModelShape, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = shape.embedding_size
        self.attention_norm = keras.layers.LayerNormalization(name="attention_norm")
        self.attention = keras.layers.MultiHeadAttention(
            shape.num_heads, max(1, width // shape.num_heads), dropout=shape.dropout, name="attention"
        )
        self.feed_norm = keras.layers.LayerNormalization(name="feed_norm")
        self.expand = keras.layers.Dense(2 * width, activation="gelu", name="expand")
        self.contract = keras.layers.Dense(width, name="contract")
        self.dropout = keras.layers.Dropout(shape.dropout, name="dropout")

    def call(self, tokens: Any, is_token: Any, training: bool = False) -> Any:
        normed = self.attention_norm(tokens)
        attended = self.attention(normed, normed, attention_mask=is_token[:, None, :], training=training)
        tokens = tokens + self.dropout(attended, training=training)
        fed = self.contract(self.expand(self.feed_norm(tokens)))
        return tokens + self.dropout(fed, training=training)


class SequenceBlock(keras.layers.Layer):  # type: ignore[misc]  # the library ships no types
    """Self-attention that knows how far apart two tokens are, and a gated (SwiGLU) feed-forward layer.

    Both are normalised before and added after. A learnt bias by distance takes the place of positions, so that a
    sequence means the same wherever it lies in a packed row.
    """

    def __init__(self, shape: ModelShape, *, causal: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = shape.embedding_size
        self.causal = causal  # tokens are newest first, and do not see newer ones
        self.heads, self.head_width = shape.sequence_heads, max(1, width // shape.sequence_heads)
        self.reach = shape.history_length
        inner = self.heads * self.head_width
        self.attention_norm = keras.layers.LayerNormalization(name="attention_norm")
        self.projections = keras.layers.Dense(3 * inner, name="projections")
        self.merge = keras.layers.Dense(width, name="merge")
        self.distance = self.add_weight(shape=(2 * self.reach + 1, self.heads), initializer="zeros", name="distance")
        self.attention_dropout = keras.layers.Dropout(shape.dropout, name="attention_dropout")
        self.feed_norm = keras.layers.LayerNormalization(name="feed_norm")
        self.expand = keras.layers.Dense(4 * width, name="expand")
        self.contract = keras.layers.Dense(width, name="contract")
        self.dropout = keras.layers.Dropout(shape.dropout, name="dropout")

    def call(self, tokens: Any, mask: Any, training: bool = False) -> Any:
        """tokens [batch, tokens, width]; mask [batch, 1 or tokens, tokens], FAR_BELOW where a token may not be seen."""
        count, width = ops.shape(tokens)[1:]
        rows = ops.reshape(tokens, (-1, width))  # [batch × tokens, width], which takes far fewer operations
        attended = self._attend(self.attention_norm(rows), count, mask, training)
        rows = rows + self.dropout(attended, training=training)
        gate, value = ops.split(self.expand(self.feed_norm(rows)), 2, axis=-1)
        rows = rows + self.dropout(self.contract(ops.silu(gate) * value), training=training)
        return ops.reshape(rows, (-1, count, width))

    def _attend(self, rows: Any, count: Any, mask: Any, training: bool) -> Any:
        joint = ops.reshape(self.projections(rows), (-1, count, 3, self.heads, self.head_width))
        query, key, value = ops.unstack(ops.transpose(joint, (2, 0, 3, 1, 4)), 3)  # [batch, heads, tokens, head] each
        logits = ops.matmul(query / self.head_width**0.5, ops.transpose(key, (0, 1, 3, 2)))
        logits = logits + ops.cast(self._distances(count), logits.dtype) + mask[:, None]
        weights = self.attention_dropout(ops.softmax(logits, axis=-1), training=training)
        merged = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))  # [batch, tokens, heads, head]
        return self.merge(ops.reshape(merged, (-1, self.heads * self.head_width)))

    def _distances(self, count: Any) -> Any:
        """[heads, tokens, tokens]: the bias of how much older the seen token is."""
        place = np.arange(self.reach + 1)
        older = place[None, :] - place[:, None]
        bias = ops.transpose(ops.take(self.distance, older + self.reach, axis=0), (2, 0, 1))
        if self.causal:
            bias = bias + ops.cast(FAR_BELOW * (older < 0), bias.dtype)
        return bias[:, :count, :count]


class CandidateAttention(keras.layers.Layer):  # type: ignore[misc]  # the library ships no types
    """W_uᵀ · multi-head attention of each candidate over [itself; history]; candidates never see each other.

    W_u is taken through the output projection to the values, so that what a head makes of a token is one number: the
    same result without a value vector per candidate.
    """

    def __init__(self, shape: ModelShape, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.head_width = shape.num_heads, max(1, shape.embedding_size // shape.num_heads)
        inner = self.heads * self.head_width
        is_sequence = shape.encoder != "attention"  # starts as the dot product alone
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.query = keras.layers.Dense(inner, name="query")
        self.key = keras.layers.Dense(inner, name="key")
        self.value = keras.layers.Dense(inner, name="value")
        self.output_projection = self.add_weight(
            shape=(inner, shape.embedding_size),
            initializer="zeros" if is_sequence else "glorot_uniform",
            name="output_projection",
        )

    def of_items(self, vectors: Any) -> tuple[Any, Any]:
        """What of the head depends on items alone, vectors [..., width].

        Queries [heads, ..., head + 1], the last less what the item says to itself; and values [heads, ..., head].
        """
        normed = self.norm(vectors)
        query = self._heads(self.query, normed) / self.head_width**0.5
        own = ops.sum(query * self._heads(self.key, normed), axis=-1, keepdims=True)
        return ops.concatenate([query, -own], axis=-1), self._heads(self.value, normed)

    def call(self, candidates: Any, history: Any, is_token: Any, user_weights: Any, known: Any = None) -> Any:
        """candidates [batch, candidates, width], history [batch, tokens, width] → [batch, candidates].

        is_token: bool [batch, tokens]; user_weights: W_u [batch, width]; `known` is what `of_items` makes of the
        candidates, where that is at hand. One row of candidates for the whole batch is enough where all users are asked
        about the same. Where several moments of one history are asked, side by side in the batch, the history is given
        once: [histories, tokens, width], with is_token [histories, moments, tokens]. The softmax is taken in odds
        against the candidate itself, so that each of the many pairs of candidate and token is gone over as seldom as
        possible.
        """
        query, own_value = self.of_items(candidates) if known is None else known
        weights = ops.matmul(user_weights, ops.transpose(self.output_projection))  # [batch, inner]
        weights = ops.transpose(ops.reshape(weights, (-1, self.heads, self.head_width, 1)), (1, 0, 2, 3))
        key, value = self._heads(self.key, history), self._heads(self.value, history)
        key = ops.concatenate([key, ops.ones_like(key[..., :1])], axis=-1)
        if len(is_token.shape) == 2:
            value = ops.matmul(value, weights)  # [heads, batch, tokens, 1]
            logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))  # [heads, batch, candidates, tokens]
        else:
            value, logits = self._of_moments(query, key, value, weights)
            is_token = ops.reshape(is_token, (-1, is_token.shape[-1]))
        ones = ops.ones_like(value)
        odds = ops.exp(ops.minimum(logits, LARGEST))
        is_token = ops.cast(is_token, value.dtype)[None, :, :, None]
        past = ops.matmul(odds, ops.concatenate([value, ones], axis=-1) * is_token)  # [heads, batch, candidates, 2]
        attended = (ops.matmul(own_value, weights) + past[..., :1]) / (1.0 + past[..., 1:])
        return ops.sum(attended[..., 0], axis=0)

    def _of_moments(self, query: Any, key: Any, value: Any, weights: Any) -> tuple[Any, Any]:
        """Values [heads, batch, tokens, 1] and logits [heads, batch, candidates, tokens], of histories they share."""
        histories, tokens, candidates = ops.shape(key)[1], ops.shape(key)[2], ops.shape(query)[2]
        per_history = ops.reshape(weights, (self.heads, histories, -1, self.head_width))
        values = ops.matmul(per_history, ops.transpose(value, (0, 1, 3, 2)))  # [heads, histories, moments, tokens]
        queries = ops.reshape(query, (self.heads, histories, -1, self.head_width + 1))
        logits = ops.matmul(
            queries, ops.transpose(key, (0, 1, 3, 2))
        )  # [heads, histories, moments × candidates, tokens]
        return (
            ops.reshape(values, (self.heads, -1, tokens, 1)),
            ops.reshape(logits, (self.heads, -1, candidates, tokens)),
        )

    def _heads(self, layer: Any, vectors: Any) -> Any:
        """[..., width] → [heads, ..., head]."""
        *before, width = ops.shape(vectors)
        projected = ops.reshape(layer(ops.reshape(vectors, (-1, width))), (*before, self.heads, self.head_width))
        return ops.moveaxis(projected, -2, 0)
