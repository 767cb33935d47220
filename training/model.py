"""The recommender: r̂_ui = σ(W_uᵀ · MultiHeadAttention([h_i; h_{i−1}; …; h_1]) + b_u).

The candidate h_i is the newest position of the sequence. The history is encoded once per user; each candidate then
attends to [itself; history] and to nothing else, so that a score does not depend on what else is ranked.

    H   = Encoder([context; history])                      # [batch, 1 + history, width]; context is the user's features
    e_u = H at the context position                        # [batch, width]; what `encode_user` gives
    a_i = MultiHeadAttention(Q = h_i, K = V = [h_i; H])     # [batch, candidates, width]
    z_i = a_i + h_i ⊙ e_u                                   # the residual carries h_i as this user sees it
    c_ui = bias_i + g(e_u)ᵀ popularity_i                    # how much of the item's popularity this user follows
    r̂   = σ((W_0 + δ_u)ᵀ z_i + b_0 + b_u + c_ui)

`retrieve` ranks the whole catalogue by e_uᵀ h_i + c_ui, the part of the score that needs no attention per candidate.
Only `keras.ops` is used: it runs on every Keras backend.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
from keras import ops

from feature_repo.contract import HISTORY_LENGTH, MODEL_USER_FEATURES
from training.popularity import POPULARITY_FEATURES
from training.vocabulary import FIRST_ROW, PADDING

AGE_BUCKETS = 40  # powers of two of seconds; 2⁴⁰ s is beyond any log

Tensors = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Everything that decides the model's parameters, so that a checkpoint can be rebuilt from it."""

    num_users: int
    num_items: int
    num_event_types: int = 1
    embedding_size: int = 64
    num_heads: int = 8
    num_blocks: int = 1
    history_length: int = HISTORY_LENGTH
    num_user_features: int = len(MODEL_USER_FEATURES)
    dropout: float = 0.1
    user_prior: float = 1.0


class HistoryEncoder(keras.layers.Layer):  # type: ignore[misc]  # the library ships no types
    """The user's past as tokens: a context token of the user's features, then the history, newest first."""

    def __init__(self, shape: ModelShape, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = shape.embedding_size
        self.event_type = keras.layers.Embedding(shape.num_event_types + FIRST_ROW, width, name="event_type")
        self.position = keras.layers.Embedding(shape.history_length, width, name="position")
        self.age = keras.layers.Embedding(AGE_BUCKETS, width, name="age")
        self.normalise = UserFeatureNormalisation(shape.num_user_features, name="normalise")
        self.context = keras.layers.Dense(width, name="context")
        self.dropout = keras.layers.Dropout(shape.dropout, name="dropout")
        self.blocks = [EncoderBlock(shape, name=f"block_{index}") for index in range(shape.num_blocks)]
        self.norm = keras.layers.LayerNormalization(name="norm")

    def call(self, inputs: Tensors, item_vectors: Any, training: bool = False) -> tuple[Any, Any]:
        """Gives the tokens [batch, 1 + history, width] and is_token [batch, 1 + history]."""
        is_item = ops.not_equal(inputs["history_items"], PADDING)  # [batch, history]
        age_s = ops.maximum(inputs["history_age_s"], 0.0)
        bucket = ops.cast(ops.minimum(ops.log2(1.0 + age_s), AGE_BUCKETS - 1.0), "int32")
        history = (
            item_vectors
            + self.event_type(inputs["history_types"])
            + self.age(bucket)
            + self.position(ops.arange(ops.shape(is_item)[1]))
        )  # [batch, history, width]
        context = self.context(self.normalise(inputs["user_features"]))[:, None, :]  # [batch, 1, width]
        tokens = self.dropout(ops.concatenate([context, history], axis=1), training=training)
        is_token = ops.concatenate([ops.ones_like(is_item[:, :1]), is_item], axis=1)  # [batch, 1 + history]
        for block in self.blocks:
            tokens = block(tokens, is_token, training=training)
        return self.norm(tokens), is_token


class UserFeatureNormalisation(keras.layers.Layer):  # type: ignore[misc]  # the library ships no types
    """(x − mean) / deviation with the training data's statistics; a missing value becomes 0 and sets its flag."""

    def __init__(self, num_features: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = self.add_weight(shape=(num_features,), initializer="zeros", trainable=False, name="mean")
        self.deviation = self.add_weight(shape=(num_features,), initializer="ones", trainable=False, name="deviation")

    def call(self, features: Any) -> Any:
        """[batch, F] with NaN for missing → [batch, 2F]."""
        is_missing = ops.logical_not(ops.isfinite(features))
        scaled = ops.where(is_missing, 0.0, (features - self.mean) / self.deviation)
        return ops.concatenate([ops.clip(scaled, -5.0, 5.0), ops.cast(is_missing, scaled.dtype)], axis=-1)


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


class CandidateAttention(keras.layers.Layer):  # type: ignore[misc]  # the library ships no types
    """Multi-head attention of each candidate over [itself; history]; candidates never see each other."""

    def __init__(self, shape: ModelShape, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = shape.embedding_size
        self.heads, self.head_width = shape.num_heads, max(1, width // shape.num_heads)
        inner = self.heads * self.head_width
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.query = keras.layers.Dense(inner, name="query")
        self.key = keras.layers.Dense(inner, name="key")
        self.value = keras.layers.Dense(inner, name="value")
        self.output_projection = keras.layers.Dense(width, name="output_projection")

    def call(self, candidates: Any, history: Any, is_token: Any) -> Any:
        """candidates [batch, candidates, width], history [batch, tokens, width] → [batch, candidates, width]."""
        candidates = self.norm(candidates)
        query = self._split(self.query(candidates)) / self.head_width**0.5  # [batch, candidates, heads, head]
        own_key, own_value = self._split(self.key(candidates)), self._split(self.value(candidates))
        key, value = self._split(self.key(history)), self._split(self.value(history))  # [batch, tokens, heads, head]
        own = ops.sum(query * own_key, axis=-1)[..., None]  # [batch, candidates, heads, 1]
        past = ops.einsum("bnhd,bthd->bnht", query, key)  # [batch, candidates, heads, tokens]
        past = ops.where(is_token[:, None, None, :], past, -1e9)
        weights = ops.softmax(ops.concatenate([own, past], axis=-1), axis=-1)
        attended = weights[..., :1] * own_value + ops.einsum("bnht,bthd->bnhd", weights[..., 1:], value)
        return self.output_projection(self._merge(attended))

    def _split(self, vectors: Any) -> Any:
        return ops.reshape(vectors, (-1, ops.shape(vectors)[1], self.heads, self.head_width))

    def _merge(self, heads: Any) -> Any:
        return ops.reshape(heads, (-1, ops.shape(heads)[1], self.heads * self.head_width))


class Recommender(keras.Model):  # type: ignore[misc]  # the library ships no types
    """Scores candidates for users; see the module's docstring for the formula.

    Inputs, all with the batch first: history_items, history_types int32 [batch, history]; history_age_s float32
    [batch, history]; user_features float32 [batch, F]; user int32 [batch], the user's row of δ, 0 for none;
    candidate_items int32 [batch, candidates]; candidate_popularity float32 [batch, candidates, P].
    """

    def __init__(self, shape: ModelShape, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model_shape = shape
        width = shape.embedding_size
        self.items = keras.layers.Embedding(shape.num_items + FIRST_ROW, width, name="items")
        self.item_bias = keras.layers.Embedding(
            shape.num_items + FIRST_ROW, 1, embeddings_initializer="zeros", name="item_bias"
        )
        self.encoder = HistoryEncoder(shape, name="encoder")
        self.user_embedding = keras.layers.Dense(width, name="user_embedding")
        self.popularity_weights = keras.layers.Dense(
            len(POPULARITY_FEATURES), kernel_initializer="zeros", bias_initializer="ones", name="popularity_weights"
        )
        self.attention = CandidateAttention(shape, name="attention")
        self.shared_weights = keras.layers.Dense(1, kernel_initializer="ones", name="shared_weights")  # W_0, b_0
        self.user_weights = keras.layers.Embedding(
            shape.num_users + 1, width + 1, embeddings_initializer="zeros", name="user_weights"
        )  # δ_u, b_u; row 0 is the user without weights and is never trained
        self.dropout = keras.layers.Dropout(shape.dropout, name="item_dropout")
        self.calibration = self.add_weight(
            shape=(2,), initializer=_slope_one, trainable=False, name="calibration"
        )  # Platt's a and b

    def encode(self, inputs: Tensors, training: bool = False) -> EncodedUser:
        """Encodes the history, once, for any number of candidates."""
        items = self.items(inputs["history_items"])  # [batch, history, width]
        tokens, is_token = self.encoder(inputs, items, training=training)
        embedding = self.user_embedding(tokens[:, 0])  # [batch, width]
        return EncodedUser(
            tokens=tokens, is_token=is_token, embedding=embedding, popularity_weights=self.popularity_weights(embedding)
        )

    def item_terms(self, user: EncodedUser, items: Any, popularity: Any) -> Any:
        """c_ui [batch, candidates]: the item's bias and what this user makes of its popularity."""
        return self.item_bias(items)[..., 0] + ops.einsum("bnp,bp->bn", popularity, user.popularity_weights)

    def rank_logits(self, user: EncodedUser, items: Any, vectors: Any, popularity: Any, user_weights: Any) -> Any:
        """Logits [batch, candidates], not calibrated; `vectors` are the candidates' h_i, `user_weights` δ_u and b_u."""
        z = self.attention(vectors, user.tokens, user.is_token) + vectors * user.embedding[:, None, :]
        own = ops.einsum("bnd,bd->bn", z, user_weights[:, :-1]) + user_weights[:, -1:]  # δ_uᵀ z_i + b_u
        return self.shared_weights(z)[..., 0] + own + self.item_terms(user, items, popularity)

    def retrieve_logits(self, user: EncodedUser, items: Any, vectors: Any, popularity: Any) -> Any:
        """Logits [batch, candidates] of the dot product alone."""
        return ops.einsum("bnd,bd->bn", vectors, user.embedding) + self.item_terms(user, items, popularity)

    def probability(self, logits: Any) -> Any:
        """σ(a · logit + b), with Platt's constants."""
        return ops.sigmoid(self.calibration[0] * logits + self.calibration[1])

    def call(self, inputs: Tensors, training: bool = False) -> dict[str, Any]:
        user = self.encode(inputs, training=training)
        items, popularity = inputs["candidate_items"], inputs["candidate_popularity"]
        vectors = self.dropout(self.items(items), training=training)
        weights = self.user_weights(inputs["user"])
        return {
            "rank": self.rank_logits(user, items, vectors, popularity, weights),
            "retrieve": self.retrieve_logits(user, items, vectors, popularity),
        }

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Binary cross-entropy of `rank`, softmax of `retrieve`, and the Gaussian prior of δ_u.

        y [batch, candidates] is 1 for an item the user went on to engage with, 0 for a sampled one, −1 for padding.
        x["candidate_log_odds"] is log(draws × probability) of the item as a negative, so that what is learnt is the
        odds of engagement and not the odds against this way of sampling.
        """
        is_candidate = ops.cast(y >= 0, "float32")
        label = ops.maximum(y, 0.0)
        per_user = ops.sum(label, axis=1)
        weight = x["example_weight"]
        corrected = y_pred["rank"] - x["candidate_log_odds"]
        cross_entropy = ops.maximum(corrected, 0.0) - corrected * label + ops.log1p(ops.exp(-ops.abs(corrected)))
        rank = ops.sum(cross_entropy * is_candidate, axis=1)
        logits = y_pred["retrieve"] - x["candidate_log_odds"]
        logits = ops.where(is_candidate > 0, logits, -1e9)
        retrieve = per_user * ops.logsumexp(logits, axis=1) - ops.sum(label * ops.where(label > 0, logits, 0.0), axis=1)
        delta = self.user_weights(x["user"])
        prior = 0.5 * self.model_shape.user_prior * ops.sum(ops.square(delta), axis=1) * x["prior_share"]
        total = ops.sum(weight * (rank + retrieve) + prior)
        return total / ops.maximum(ops.sum(weight * per_user), 1.0)

    def get_config(self) -> dict[str, Any]:
        return {"shape": asdict(self.model_shape)}


@dataclass(frozen=True, kw_only=True)
class EncodedUser:
    """What the history became."""

    tokens: Any  # [batch, 1 + history, width]
    is_token: Any  # [batch, 1 + history]
    embedding: Any  # [batch, width]
    popularity_weights: Any  # [batch, P]


def _slope_one(shape: tuple[int, ...], dtype: Any = None) -> Any:
    return ops.cast(ops.convert_to_tensor([1.0, 0.0]), dtype or "float32")


def build(shape: ModelShape) -> Recommender:
    """A recommender whose parameters exist."""
    recommender = Recommender(shape)
    recommender(example_inputs(shape))
    return recommender


def example_inputs(shape: ModelShape, *, batch: int = 1, candidates: int = 1) -> dict[str, np.ndarray]:
    """Inputs of the right shapes: users with no history and unknown candidates."""
    return {
        "history_items": np.zeros((batch, shape.history_length), np.int32),
        "history_types": np.zeros((batch, shape.history_length), np.int32),
        "history_age_s": np.zeros((batch, shape.history_length), np.float32),
        "user_features": np.zeros((batch, shape.num_user_features), np.float32),
        "user": np.zeros(batch, np.int32),
        "candidate_items": np.ones((batch, candidates), np.int32),
        "candidate_popularity": np.zeros((batch, candidates, len(POPULARITY_FEATURES)), np.float32),
    }


def create_model(num_users: int, num_items: int, embedding_size: int = 64, num_heads: int = 8) -> Recommender:
    """The recommender with the paper's defaults, compiled and ready for `fit`."""
    model = build(
        ModelShape(num_users=num_users, num_items=num_items, embedding_size=embedding_size, num_heads=num_heads)
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    return model
