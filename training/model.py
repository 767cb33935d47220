"""The recommender: r̂_ui = σ(W_uᵀ · MultiHeadAttention([h_i; h_{i−1}; …; h_1]) + b_u).

The candidate h_i is the newest position of the sequence. The history is encoded once per user; each candidate then
attends to [itself; history] and to nothing else, so that a score does not depend on what else is ranked.

    H, e_u = Encoder(history, features of the user)         # [batch, 1 + history, width], [batch, width]
    a_i = MultiHeadAttention(Q = h_i, K = V = [h_i; H])     # [batch, candidates, width]
    z_i = a_i + h_i ⊙ e_u                                   # the residual carries h_i as this user sees it
    c_ui = bias_i + g(e_u)ᵀ popularity_i                    # how much of the item's popularity this user follows
    r̂   = σ((W_0 + δ_u)ᵀ z_i + b_0 + b_u + c_ui)         # with a learnt prior μ(e_u) + δ_u in place of δ_u

The encoder is one of a family (`training.network.encoders`); the head, W_u and the item terms are the same for each.
`retrieve` ranks the whole catalogue by e_uᵀ h_i + c_ui, the part of the score that needs no attention per candidate.
Only `keras.ops` is used: it runs on every Keras backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from training.log.popularity import POPULARITY_FEATURES
from training.network.blocks import CandidateAttention
from training.network.encoders import Encoded, make_encoder
from training.network.fill_values import nothing_learnt
from training.network.items import ItemTable
from training.network.objective import Objective
from training.network.shape import ModelShape
from training.vocabulary import FIRST_ROW

Tensors = Mapping[str, Any]


class Recommender(keras.Model):  # type: ignore[misc]  # the library ships no types
    """Scores candidates for users; see the module's docstring for the formula.

    Inputs, all with the batch first: history_items, history_types int32 [batch, history]; history_age_s float32
    [batch, history]; user_features float32 [batch, F]; user int32 [batch], the user's row of δ, 0 for none;
    candidate_items int32 [batch, candidates]; candidate_popularity float32 [batch, candidates, P]; one row of
    candidates is enough where all users are asked about the same.
    """

    def __init__(self, shape: ModelShape, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model_shape = shape
        self.objective = Objective()
        self.fill_values = nothing_learnt()  # what `encoder.normalise` was told, for people
        width = shape.embedding_size
        is_sequence = shape.encoder != "attention"
        self.items = ItemTable(shape, name="items")
        self.item_bias = keras.layers.Embedding(
            shape.num_items + FIRST_ROW, 1, embeddings_initializer="zeros", name="item_bias"
        )
        self.encoder = make_encoder(shape)
        self.popularity_weights = keras.layers.Dense(
            len(POPULARITY_FEATURES),
            kernel_initializer="zeros",
            bias_initializer="zeros" if is_sequence else "ones",
            name="popularity_weights",
        )
        self.attention = CandidateAttention(shape, name="attention")
        self.shared_weights = self.add_weight(
            shape=(width + 1,), initializer=_ones_and_zero, name="shared_weights"
        )  # W_0, b_0
        self.user_weights = keras.layers.Embedding(
            shape.num_users + 1, width + 1, embeddings_initializer="zeros", name="user_weights"
        )  # δ_u, b_u; row 0 is whoever has no weights, until artifact.settle_nobody
        if shape.learnt_prior:
            self.prior_mean = keras.layers.Dense(
                width + 1, use_bias=False, kernel_initializer="zeros", name="prior_mean"
            )  # μ: what δ_u and b_u are before anything is known of the user but e_u
        self.dropout = keras.layers.Dropout(shape.dropout, name="item_dropout")
        self.calibration = self.add_weight(
            shape=(2,), initializer=_slope_one, trainable=False, name="calibration"
        )  # Platt's a and b

    def encode(self, inputs: Tensors, training: bool = False) -> EncodedUser:
        """Encodes the history, once, for any number of candidates."""
        return self.encode_vectors(inputs, self.items(inputs["history_items"], training=training), training=training)

    def encode_vectors(self, inputs: Tensors, items: Any, training: bool = False) -> EncodedUser:
        """The same with the vectors of the history's items [batch, history, width], wherever they are kept."""
        return self._seen_by(self.encoder(inputs, items, training=training))

    def _seen_by(self, encoded: Encoded) -> EncodedUser:
        return EncodedUser(
            tokens=encoded.tokens,
            is_token=encoded.is_token,
            embedding=encoded.embedding,
            popularity_weights=self.popularity_weights(encoded.embedding),
        )

    def bias(self, items: Any) -> Any:
        """bias_i [batch, candidates]."""
        return self.item_bias(items)[..., 0]

    def item_terms(self, user: EncodedUser, bias: Any, popularity: Any) -> Any:
        """c_ui [batch, candidates]: the item's bias and what this user makes of its popularity."""
        return bias + ops.matmul(popularity, user.popularity_weights[..., None])[..., 0]

    def logits(
        self, user: EncodedUser, bias: Any, vectors: Any, popularity: Any, *, user_weights: Any, head: Any = None
    ) -> dict[str, Any]:
        """`rank` and `retrieve` [batch, candidates], not calibrated.

        `vectors` are the candidates' h_i, `user_weights` δ_u and b_u; `head` is what `attention.of_items` makes of the
        vectors, where it is known.
        """
        if self.model_shape.learnt_prior:
            user_weights = user_weights + self.prior_mean(user.embedding)
        w = self.shared_weights[:-1] + user_weights[:, :-1]  # W_u = W_0 + δ_u [batch, width]
        attended = self.attention(vectors, user.tokens, user.is_token, w, known=head)  # W_uᵀ a_i
        both = ops.matmul(vectors, ops.stack([w * user.embedding, user.embedding], axis=-1))  # [batch, candidates, 2]
        own = self.shared_weights[-1] + user_weights[:, -1:]  # b_0 + b_u
        terms = self.item_terms(user, bias, popularity)
        return {"rank": attended + both[..., 0] + own + terms, "retrieve": both[..., 1] + terms}

    def retrieve_logits(self, user: EncodedUser, items: Any, vectors: Any, popularity: Any) -> Any:
        """Logits [batch, candidates] of the dot product alone."""
        dot = ops.matmul(vectors, user.embedding[..., None])[..., 0]
        return dot + self.item_terms(user, self.bias(items), popularity)

    def probability(self, logits: Any) -> Any:
        """σ(a · logit + b), with Platt's constants."""
        return ops.sigmoid(self.calibration[0] * logits + self.calibration[1])

    def call(self, inputs: Tensors, training: bool = False) -> dict[str, Any]:
        """`rank` and `retrieve`, [batch, candidates] each; of packed rows also the user at every token."""
        if "segment" in inputs:
            return self._packed(inputs, training)
        user = self.encode(inputs, training=training)
        items, popularity = inputs["candidate_items"], inputs["candidate_popularity"]
        vectors = self.dropout(self.items(items, training=training), training=training)
        weights = self.user_weights(inputs["user"])
        return self.logits(user, self.bias(items), vectors, popularity, user_weights=weights)

    def _packed(self, inputs: Tensors, training: bool) -> dict[str, Any]:
        """At some tokens of packed rows, each a moment: as if the row began there; see training.examples.sequences."""
        said = self.items.said_of_all()
        behaviours = self.items(inputs["items"], training=training, said=said)
        tokens, users = self.encoder.packed(inputs, behaviours, training=training)
        seen, known = ops.stop_gradient(tokens), ops.stop_gradient(users)  # the head does not pull at what it reads
        moment = inputs["moment"]  # int32 [rows, moments], a token of the row
        segment = inputs["segment"]
        place = ops.arange(ops.shape(segment)[1])
        own = ops.take_along_axis(segment, moment, axis=1)  # [rows, moments]
        sees = ops.logical_and(ops.equal(segment[:, None], own[..., None]), place >= moment[..., None])
        embedding = ops.take_along_axis(known, moment[..., None], axis=1)  # [rows, moments, width]
        width = self.model_shape.embedding_size
        flat = EncodedUser(
            tokens=seen,  # once for the moments of a row
            is_token=sees,
            embedding=ops.reshape(embedding, (-1, width)),
            popularity_weights=self.popularity_weights(ops.reshape(embedding, (-1, width))),
        )
        items = ops.reshape(inputs["candidate_items"], (-1, ops.shape(inputs["candidate_items"])[-1]))
        popularity = ops.reshape(inputs["candidate_popularity"], (-1, ops.shape(items)[1], len(POPULARITY_FEATURES)))
        vectors = ops.stop_gradient(self.items(items, said=said))
        weights = self.user_weights(ops.reshape(inputs["user"], (-1,)))
        answers = self.logits(flat, self.bias(items), vectors, popularity, user_weights=weights)
        answers["users"] = users
        return answers if said is None else answers | {"said": said}

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """What `training.network.objective` makes of it."""
        return self.objective.value(self, x, y, y_pred, training=training)

    def sequence_logits(self, x: Tensors, packed: Tensors, training: bool = False) -> tuple[Any, Any]:
        """Of what came next [tokens], and of the items that the batch shares [tokens, negatives], at every token.

        `packed` is what `call` gives of packed rows.
        """
        users = ops.reshape(packed["users"], (-1, self.model_shape.embedding_size))
        targets, negatives = ops.reshape(x["targets"], (-1,)), ops.reshape(x["negatives"], (-1,))
        bias = ops.cast(self.item_bias(negatives)[:, 0], "float32")
        said = packed.get("said")
        vectors = self.items(negatives, training=training, said=said)  # [negatives, width]
        negative = ops.cast(ops.matmul(users, ops.transpose(vectors)), "float32") + bias
        positive = ops.cast(ops.sum(users * self.items(targets, training=training, said=said), axis=-1), "float32")
        return positive + ops.cast(self.item_bias(targets)[:, 0], "float32"), negative

    def get_config(self) -> dict[str, Any]:
        return {"shape": asdict(self.model_shape)}


@dataclass(frozen=True, kw_only=True)
class EncodedUser:
    """What the history became."""

    tokens: Any  # [batch, 1 + history, width]; of packed rows [rows, tokens, width]
    is_token: Any  # [batch, 1 + history]; [rows, moments, tokens]
    embedding: Any  # [batch, width]
    popularity_weights: Any  # [batch, P]


def _ones_and_zero(shape: tuple[int, ...], dtype: Any = None) -> Any:
    return ops.concatenate([ops.ones((shape[0] - 1,), dtype), ops.zeros((1,), dtype)])


def _slope_one(shape: tuple[int, ...], dtype: Any = None) -> Any:
    return ops.cast(ops.convert_to_tensor([1.0, 0.0]), dtype or "float32")


def build(shape: ModelShape, *, precision: str = "float32") -> Recommender:
    """A recommender whose parameters exist, in float32; `precision` is what its layers compute in."""
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32" if precision == "float32" else f"mixed_{precision}")
    try:
        recommender = Recommender(shape)
        recommender(example_inputs(shape))
    finally:
        keras.config.set_dtype_policy(usual)
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
