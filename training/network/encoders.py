"""The family: how a user's past becomes tokens and one vector. The encoder is chosen by `training.encoder`.

    attention    a context token of the user's features, then the behaviours, which all see each other
    transformer  each behaviour sees itself and the older ones, so that every place of a sequence is a question: what
                 came next? All places are learnt from at once (after SASRec, Kang and McAuley 2018)
    bert         behaviours see both ways; some are masked and guessed from the rest (after BERT4Rec, Sun et al. 2019)

All of them give tokens [batch, 1 + history, width], newest first, whose first is what is known of the user now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from training.network.blocks import FAR_BELOW, EncoderBlock, SequenceBlock, UserFeatureNormalisation
from training.network.shape import ModelShape
from training.vocabulary import FIRST_ROW, PADDING

AGE_BUCKETS = 40  # powers of two of seconds; 2⁴⁰ s is beyond any log

Tensors = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What the history became."""

    tokens: Any  # [batch, 1 + history, width]
    is_token: Any  # bool [batch, 1 + history]
    embedding: Any  # [batch, width], the user


def bucket(seconds: Any) -> Any:
    """The power of two that a duration reaches, as int32."""
    return ops.cast(ops.minimum(ops.log2(1.0 + ops.maximum(seconds, 0.0)), AGE_BUCKETS - 1.0), "int32")


class AttentionEncoder(keras.layers.Layer):  # type: ignore[misc]  # the library ships no types
    """`attention`: a context token of the user's features, then the history, newest first."""

    def __init__(self, shape: ModelShape, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = shape.embedding_size
        self.event_type = keras.layers.Embedding(shape.num_event_types + FIRST_ROW, width, name="event_type")
        self.position = keras.layers.Embedding(shape.history_length, width, name="position")
        self.age = keras.layers.Embedding(AGE_BUCKETS, width, name="age") if shape.time_gaps else None
        self.normalise = UserFeatureNormalisation(shape.num_user_features, name="normalise")
        self.context = keras.layers.Dense(width, name="context")
        self.dropout = keras.layers.Dropout(shape.dropout, name="dropout")
        self.blocks = [EncoderBlock(shape, name=f"block_{index}") for index in range(shape.num_blocks)]
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.user_embedding = keras.layers.Dense(width, name="user_embedding")

    def call(self, inputs: Tensors, item_vectors: Any, training: bool = False) -> Encoded:
        is_item = ops.not_equal(inputs["history_items"], PADDING)  # [batch, history]
        history = item_vectors + self.event_type(inputs["history_types"])
        if self.age is not None:
            history = history + self.age(bucket(inputs["history_age_s"]))
        history = history + self.position(ops.arange(ops.shape(is_item)[1]))  # [batch, history, width]
        length = ops.sum(ops.cast(is_item, "int32"), axis=1)
        context = self.context(self.normalise(inputs["user_features"], length))[:, None, :]  # [batch, 1, width]
        tokens = self.dropout(ops.concatenate([context, history], axis=1), training=training)
        is_token = ops.concatenate([ops.ones_like(is_item[:, :1]), is_item], axis=1)  # [batch, 1 + history]
        for block in self.blocks:
            tokens = block(tokens, is_token, training=training)
        tokens = self.norm(tokens)
        return Encoded(tokens=tokens, is_token=is_token, embedding=self.user_embedding(tokens[:, 0]))


class SequenceEncoder(keras.layers.Layer):  # type: ignore[misc]  # the library ships no types
    """`transformer` and `bert`.

    A token is a behaviour (item, event type, the time until the next behaviour), or the special token where there is
    no item: for the transformer the start of a life, older than all behaviours; for bert the masked item, of which the
    one to come is the newest.
    """

    def __init__(self, shape: ModelShape, *, causal: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = shape.embedding_size
        self.causal, self.scale = causal, width**0.5
        self.event_type = keras.layers.Embedding(shape.num_event_types + FIRST_ROW, width, name="event_type")
        self.gap = keras.layers.Embedding(AGE_BUCKETS, width, name="gap") if shape.time_gaps else None
        self.special = self.add_weight(shape=(width,), initializer="random_normal", name="special")
        self.normalise = UserFeatureNormalisation(shape.num_user_features, name="normalise")
        self.context = keras.layers.Dense(width, kernel_initializer="zeros", name="context")
        self.dropout = keras.layers.Dropout(shape.dropout, name="dropout")
        self.blocks = [SequenceBlock(shape, causal=causal, name=f"block_{index}") for index in range(shape.num_blocks)]
        self.norm = keras.layers.LayerNormalization(name="norm")

    def call(self, inputs: Tensors, item_vectors: Any, training: bool = False) -> Encoded:
        items, age_s = inputs["history_items"], inputs["history_age_s"]
        gap_s = age_s - ops.pad(age_s[:, :-1], ((0, 0), (1, 0)))  # until the next behaviour, or until now
        is_item = ops.not_equal(items, PADDING)
        is_token = ops.pad(is_item, ((0, 0), (1, 0)), constant_values=True)
        ends = (0, 1) if self.causal else (1, 0)  # where the special token lies
        tokens = self._tokens(
            ops.pad(items, ((0, 0), ends)),
            ops.pad(inputs["history_types"], ((0, 0), ends)),
            ops.pad(gap_s, ((0, 0), ends)),
            ops.pad(item_vectors, ((0, 0), ends, (0, 0))),
        )
        tokens = self._run(tokens, is_token[:, None, :], training)
        length = ops.sum(ops.cast(is_item, "int32"), axis=1)
        embedding = self._with_features(tokens[:, 0], inputs["user_features"], length)
        return Encoded(tokens=tokens, is_token=is_token, embedding=embedding)

    def packed(self, inputs: Tensors, item_vectors: Any, training: bool = False) -> tuple[Any, Any]:
        """Tokens and users at each of them, both [rows, tokens, width], of rows that hold several sequences each."""
        tokens = self._tokens(inputs["items"], inputs["types"], inputs["gap_s"], item_vectors)
        segment = inputs["segment"]  # [rows, tokens]: which of the row's sequences a token is of
        tokens = self._run(tokens, ops.equal(segment[:, :, None], segment[:, None, :]), training)
        return tokens, self._with_features(tokens, inputs["user_features"], inputs["history_length"])

    def _tokens(self, items: Any, types: Any, gap_s: Any, item_vectors: Any) -> Any:
        behaviour = item_vectors * self.scale + self.event_type(types)
        if self.gap is not None:
            behaviour = behaviour + self.gap(bucket(gap_s))
        return ops.where(ops.not_equal(items, PADDING)[..., None], behaviour, ops.cast(self.special, behaviour.dtype))

    def _run(self, tokens: Any, may_see: Any, training: bool) -> Any:
        """may_see: bool [batch, 1 or tokens, tokens]; the transformer does not see what is newer, either."""
        tokens = self.dropout(tokens, training=training)
        mask = (1.0 - ops.cast(may_see, tokens.dtype)) * FAR_BELOW
        for block in self.blocks:
            tokens = block(tokens, mask, training=training)
        return self.norm(tokens)

    def _with_features(self, tokens: Any, features: Any, history_length: Any) -> Any:
        return tokens + self.context(self.normalise(features, history_length))


def make_encoder(shape: ModelShape) -> AttentionEncoder | SequenceEncoder:
    """The encoder that a shape names."""
    if shape.encoder == "attention":
        return AttentionEncoder(shape, name="encoder")
    return SequenceEncoder(shape, causal=shape.encoder == "transformer", name="encoder")
