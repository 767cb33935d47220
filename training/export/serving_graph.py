"""The model as TensorFlow Serving runs it: string ids in, lookup in the graph, scores out. Imports TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.artifact import TrainedModel
from training.export.blend_graph import BlendGraph
from training.export.stored_tables import StoredTables
from training.model import EncodedUser, Recommender
from training.vocabulary import FIRST_ROW, PADDING, UNKNOWN

UNSEEN_SCORE = -1e9


class ServingGraph(tf.Module):  # type: ignore[misc]  # the library ships no types
    """`rank`, `retrieve` and `encode_user`. Batch first in every input and output; nothing is scalar."""

    def __init__(self, model: TrainedModel, tables: StoredTables, *, retrieve_k: int) -> None:
        super().__init__(name="longtail")
        self._model = model.recommender
        self._weights = [(each, each.numpy()) for each in _small(model.recommender)]
        self._version = tf.constant(model.version, tf.int64)
        self._rows = _table([str(item) for item in model.item_ids])
        self._types = _table([str(event_type) for event_type in model.event_types])
        self._item_ids = tf.constant(["", ""] + [str(item) for item in model.item_ids])  # [rows]
        self._tables = tables
        self._blend = BlendGraph(model.blend, tables, history_length=model.shape.history_length)
        self._k = min(retrieve_k, len(model.item_ids))
        self._length = model.shape.history_length
        self._width = model.shape.embedding_size
        self._num_features = model.shape.num_user_features

    def signatures(self) -> dict[str, Any]:
        """The signatures to save, by name; `rank` and `serving_default` are one function."""
        user = self.user_specs()
        candidates = tf.TensorSpec([None, None], tf.string, name="candidate_item_ids")
        rank = tf.function(self.rank).get_concrete_function(**user, candidate_item_ids=candidates)
        return {
            "serving_default": rank,
            "rank": rank,
            "retrieve": tf.function(self.retrieve).get_concrete_function(**user),
            "encode_user": tf.function(self.encode_user).get_concrete_function(**user),
        }

    def _fixed(self) -> keras.StatelessScope:
        """Where the network's weights are constants, but for those of items and users.

        What depends on weights alone is then computed when the model is loaded, and not for each request.
        """
        return keras.StatelessScope([(variable, tf.constant(value)) for variable, value in self._weights])

    def state(self, signatures: Mapping[str, Any]) -> tf.Module:
        """What a SavedModel keeps besides the graph: the variables that the signatures read, and the tables.

        Of the model's own that is neither the users' weights, which come with a request, nor the items' vectors,
        which are kept as `tables` have them.

        Keras' variables must not be tracked: around each the SavedModel would restore a copy that the signatures do
        not read. Python's loader hides that; a session, which is how TensorFlow Serving loads, finds nothing.
        """
        root = tf.Module(name="longtail")
        root.variables_read = list({id(each): each for one in signatures.values() for each in one.variables}.values())
        root.tables = [self._rows, self._types]
        return root

    def user_specs(self) -> dict[str, tf.TensorSpec]:
        shapes = {
            "history_item_ids": ([None, self._length], tf.string),
            "history_event_types": ([None, self._length], tf.string),
            "history_age_s": ([None, self._length], tf.float32),
            "user_features": ([None, self._num_features], tf.float32),
            "user_weights": ([None, self._width + 1], tf.float32),
            "user_weights_version": ([None], tf.int64),
        }
        return {name: tf.TensorSpec(shape, dtype, name=name) for name, (shape, dtype) in shapes.items()}

    def rank(self, *, candidate_item_ids: tf.Tensor, **user_inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Calibrated probabilities [batch, candidates]; 0 where the candidate id is empty."""
        user, history = self._encode(user_inputs)
        rows = self._rows.lookup(candidate_item_ids)  # [batch, candidates]
        vectors = self._tables.items.gather(rows)
        popularity = self._tables.popularity.gather(rows)
        head = self._tables.head.gather(rows) if self._tables.head else None
        with self._fixed():
            bias, weights = tf.gather(self._bias(), rows), self._user_weights(user_inputs)
            logits = self._model.logits(user, bias, vectors, popularity, user_weights=weights, head=head)
        weighed = self._blend.weigh(history, user_inputs["history_age_s"])
        log_odds = self._blend.rank(weighed, rows, logits["retrieve"], logits["rank"])
        return {"scores": tf.where(rows == PADDING, 0.0, tf.sigmoid(log_odds))}

    def retrieve(self, **user_inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """The K best of the catalogue that are not in the history, best first; ids "" where there are fewer."""
        user, history = self._encode(user_inputs)
        weighed = self._blend.weigh(history, user_inputs["history_age_s"])
        logits = self._blend.catalogue(weighed, self._catalogue_logits(user))
        batch = tf.shape(history)[0]
        seen = tf.reshape(history, [-1])
        index = tf.stack([tf.repeat(tf.range(batch), tf.shape(history)[1]), seen], axis=1)
        logits = tf.tensor_scatter_nd_min(logits, index, tf.fill(tf.shape(seen), UNSEEN_SCORE))
        top = tf.math.top_k(logits[:, FIRST_ROW:], k=self._k)
        is_seen = top.values <= UNSEEN_SCORE
        ids = tf.gather(self._item_ids, top.indices + FIRST_ROW)
        return {
            "item_ids": tf.where(is_seen, "", ids),
            "scores": tf.where(is_seen, 0.0, tf.sigmoid(top.values)),
        }

    def encode_user(self, **user_inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """The user's embedding [batch, width]."""
        return {"embedding": self._encode(user_inputs)[0].embedding}

    def _encode(self, user_inputs: dict[str, tf.Tensor]) -> tuple[EncodedUser, tf.Tensor]:
        """The users, and the rows of their histories as far as the longest goes: padding beyond is not read."""
        rows = self._rows.lookup(user_inputs["history_item_ids"])  # [batch, history]
        longest = tf.reduce_max(tf.where(rows != PADDING, np.arange(1, self._length + 1, dtype=np.int32), 1))
        history = rows[:, :longest]
        inputs = {
            "history_items": history,
            "history_types": self._types.lookup(user_inputs["history_event_types"][:, :longest]),
            "history_age_s": user_inputs["history_age_s"][:, :longest],
            "user_features": user_inputs["user_features"],
        }
        with self._fixed():
            return self._model.encode_vectors(inputs, self._tables.items.gather(history)), history

    def _user_weights(self, user_inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """δ_u and b_u, 0 where they belong to another model."""
        is_own = user_inputs["user_weights_version"] == self._version
        return tf.where(is_own[:, None], user_inputs["user_weights"], 0.0)

    def _catalogue_logits(self, user: EncodedUser) -> tf.Tensor:
        popularity = self._tables.popularity.dots(user.popularity_weights)
        return self._tables.items.dots(user.embedding) + self._bias() + popularity

    def _bias(self) -> tf.Tensor:
        """Of every row. Read, not gathered as a variable, which would then be copied wherever it is read."""
        return tf.reshape(tf.convert_to_tensor(self._model.item_bias.embeddings), [-1])


def _small(model: Recommender) -> list[Any]:
    """The variables that grow neither with the items nor with the users."""
    large = (model.items.embeddings, model.item_bias.embeddings, model.user_weights.embeddings)
    return [each for each in model.variables if not any(each is one for one in large)]


def _table(ids: list[str]) -> tf.lookup.StaticHashTable:
    """id → row: "" is padding, an id that is not listed is unknown."""
    keys = tf.constant(["", *ids])
    rows = tf.constant([PADDING, *range(FIRST_ROW, FIRST_ROW + len(ids))], tf.int32)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, rows), UNKNOWN)
