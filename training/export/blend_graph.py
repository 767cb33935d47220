"""The blend in TensorFlow, as `training.blend.blend` has it in numpy. Imports TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from training.blend.blend import CHANNELS, EVIDENCE_CHANNELS, FACT_LIMIT, FACTS, FADINGS, SHARPNESS, Blend, Mix
from training.blend.calibration import LEAST_SLOPE
from training.blend.neighbours import MATRICES
from training.export.stored_tables import StoredTables
from training.vocabulary import FIRST_ROW, PADDING

IS_OF_HISTORY = np.array([name in ("history", "gap") for name in FACTS], np.float32)  # not known of an empty one


@dataclass(frozen=True, kw_only=True)
class WeighedUser:
    """A user's history, as it counts, and what decides the weights of the channels."""

    history: tf.Tensor  # int32 [batch, history]
    fadings: tf.Tensor  # float32 [batch, history, fadings]
    facts: tf.Tensor  # float32 [batch, facts], standardised


class BlendGraph(tf.Module):  # type: ignore[misc]  # the library ships no types
    """Log-odds of engagement for candidates or for the catalogue."""

    def __init__(self, blend: Blend, tables: StoredTables, *, history_length: int) -> None:
        super().__init__(name="blend")
        scales = blend.scales
        self._rows, self._values, self._popularity = tables.neighbours, tables.neighbour_values, tables.windows
        self._evidence_scale = (scales.evidence / SHARPNESS).reshape(-1)  # [evidence channels]
        self._channel_scale = np.ones((len(CHANNELS), 1), np.float32)  # of what is weighed as it is
        self._channel_scale[: len(EVIDENCE_CHANNELS)] = np.log1p(SHARPNESS)
        self._channel_scale[-2:, 0] = scales.network
        self._facts_mean, self._facts_deviation = scales.facts_mean, scales.facts_deviation
        self._rank, self._retrieve = blend.rank, blend.retrieve
        self._num_rows = len(blend.popularity)
        self._is_newer = tf.constant(np.tri(history_length, k=-1, dtype=bool))  # [history, history]

    def weigh(self, history: tf.Tensor, age_s: tf.Tensor) -> WeighedUser:
        """history int32 [batch, history], newest first, and the ages."""
        length = tf.shape(history)[1]
        came_later = (history[:, :, None] == history[:, None, :]) & self._is_newer[:length, :length]
        is_first = (history >= FIRST_ROW) & ~tf.reduce_any(came_later, axis=2)
        counted = tf.cast(is_first, tf.float32)
        place = tf.cumsum(counted, axis=1, exclusive=True)
        faded = tf.exp(place[:, :, None] * tf.constant(-1.0 / np.array(FADINGS), tf.float32))
        return WeighedUser(history=history, fadings=faded * counted[:, :, None], facts=self._known(counted, age_s))

    def _known(self, counted: tf.Tensor, age_s: tf.Tensor) -> tf.Tensor:
        """Facts [batch, facts], standardised; of an empty history what is not known is average."""
        items = tf.reduce_sum(counted, axis=1)
        empty = tf.cast(items == 0, tf.float32)
        gap_days = tf.maximum(age_s[:, 0], 0.0) / 86_400.0
        facts = tf.stack([tf.ones_like(items), tf.math.log1p(items), tf.math.log1p(gap_days), empty], axis=1)
        scaled = tf.clip_by_value((facts - self._facts_mean) / self._facts_deviation, -FACT_LIMIT, FACT_LIMIT)
        return scaled * (1.0 - empty[:, None] * IS_OF_HISTORY)

    def rank(self, user: WeighedUser, rows: tf.Tensor, dots: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
        """Log-odds [batch, candidates] of item rows, with the network's logits likewise."""
        popularity = self._popularity.gather(rows)  # [batch, candidates, P]
        evidence = self._scaled(self._evidence(user, rows))
        channels = tf.concat([evidence, popularity, dots[:, :, None], head[:, :, None]], axis=2)
        return self._calibrated(self._rank, user, tf.matmul(channels, self._weights(self._rank, user))[:, :, 0])

    def _evidence(self, user: WeighedUser, rows: tf.Tensor) -> tf.Tensor:
        """[batch, candidates, evidence channels].

        Of the neighbours only the candidates count, so each user's catalogue says where a row is among the candidates
        of the batch; 0 is nowhere, and what pads is no candidate. What is found is a sparse matrix from the histories
        to the candidates, by which the fadings are multiplied.
        """
        batch, count = tf.shape(rows)[0], tf.shape(rows)[1]
        places = tf.reshape(tf.range(1, batch * count + 1), [batch, count]) * tf.cast(rows != PADDING, tf.int32)
        start = tf.range(batch) * self._num_rows  # of each user's catalogue
        own = rows + start[:, None]
        places = tf.maximum(tf.math.unsorted_segment_max(places, own, batch * self._num_rows), 0)  # [batch × rows]
        met = self._rows.gather(user.history) + start[:, None, None, None]  # [batch, history, matrices, neighbours]
        place = tf.gather_nd(places, tf.reshape(met, [-1, 1]))
        hit = tf.where(place)[:, 0]  # which neighbours of the histories' items are candidates
        said = hit // met.shape[-1]  # by which of the items and of its matrices
        target = tf.cast(tf.gather(place, hit), tf.int64) * len(MATRICES) + said % len(MATRICES)
        values = self._values.picked(user.history, hit)
        evidence = self._faded(user, target, said // len(MATRICES), values, count=batch * count + 1)
        return tf.gather(evidence, tf.gather(places, own))

    def catalogue(self, user: WeighedUser, dots: tf.Tensor) -> tf.Tensor:
        """Log-odds [batch, rows] of the whole catalogue, with the network's dot products likewise.

        Evidence is computed for what some neighbour speaks of: of a large catalogue that is a small part.
        """
        batch = tf.shape(user.history)[0]
        weights = self._weights(self._retrieve, user)[:, :, 0]  # [batch, channels]
        logits = self._popularity.dots(weights[:, len(EVIDENCE_CHANNELS) : -2]) + weights[:, -2:-1] * dots
        near = self._rows.gather(user.history)  # [batch, history, matrices, neighbours], 0 pads
        met = near + (tf.range(batch) * self._num_rows)[:, None, None, None]
        is_met = tf.cast(tf.math.unsorted_segment_max(near, met, batch * self._num_rows) > 0, tf.int32)
        places = tf.cumsum(is_met) * is_met  # [batch × rows], 0 is nowhere
        target = tf.gather_nd(places, met[..., None]) * len(MATRICES) + tf.range(len(MATRICES))[:, None]
        source = tf.broadcast_to(tf.reshape(tf.range(tf.size(user.history)), [batch, -1, 1, 1]), tf.shape(met))
        said = (tf.reshape(each, [-1]) for each in (target, source, self._values.gather(user.history)))
        evidence = self._faded(user, *said, count=1 + tf.reduce_sum(is_met))  # 0 of what is nowhere, as padding is
        of_user = tf.pad(tf.where(is_met)[:, 0] // self._num_rows, [[1, 0]])
        weighed = self._scaled(evidence) * tf.gather(weights[:, : len(EVIDENCE_CHANNELS)], of_user)
        logits += tf.reshape(tf.gather(tf.reduce_sum(weighed, axis=1), places), [batch, self._num_rows])
        return self._calibrated(self._retrieve, user, logits)

    def _faded(
        self, user: WeighedUser, target: tf.Tensor, source: tf.Tensor, values: tf.Tensor, *, count: tf.Tensor
    ) -> tf.Tensor:
        """Evidence [count, evidence channels], of values [said] that places of the histories say.

        A sparse matrix of them, from `source`, a place of the histories laid end to end, to `target`, a matrix of what
        is spoken of, times the fadings.
        """
        shape = tf.cast(tf.stack([count * len(MATRICES), tf.size(user.history)]), tf.int64)
        found = tf.SparseTensor(tf.cast(tf.stack([target, source], axis=1), tf.int64), values, shape)
        fadings = tf.reshape(user.fadings, [-1, len(FADINGS)])
        return tf.reshape(tf.sparse.sparse_dense_matmul(found, fadings), [-1, len(EVIDENCE_CHANNELS)])

    def _scaled(self, evidence: tf.Tensor) -> tf.Tensor:
        return tf.math.log1p(evidence / self._evidence_scale)

    def _weights(self, mix: Mix, user: WeighedUser) -> tf.Tensor:
        """[batch, channels, 1], of channels that are not scaled yet."""
        return tf.matmul(user.facts, (mix.weights / self._channel_scale).T)[:, :, None]

    def _calibrated(self, mix: Mix, user: WeighedUser, logits: tf.Tensor) -> tf.Tensor:
        slope_and_offset = tf.matmul(user.facts, mix.calibration.T)
        return tf.maximum(slope_and_offset[:, :1], LEAST_SLOPE) * logits + slope_and_offset[:, 1:]
