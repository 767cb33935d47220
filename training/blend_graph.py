"""The blend in TensorFlow, as `training.blend` has it in numpy. Imports TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from training.blend import EVIDENCE_CHANNELS, FACT_LIMIT, FADINGS, SHARPNESS, Blend, Mix
from training.calibration import LEAST_SLOPE
from training.neighbours import MATRICES
from training.stored_tables import StoredTables
from training.vocabulary import FIRST_ROW


@dataclass(frozen=True, kw_only=True)
class WeighedUser:
    """A user's history, as it counts, and what decides the weights of the channels."""

    history: tf.Tensor  # int32 [batch, history]
    fadings: tf.Tensor  # float32 [batch, history, fadings]
    facts: tf.Tensor  # float32 [batch, facts], standardised


class BlendGraph(tf.Module):  # type: ignore[misc]  # the library ships no types
    """Log-odds of engagement for candidates or for the catalogue."""

    def __init__(self, blend: Blend, tables: StoredTables) -> None:
        super().__init__(name="blend")
        scales = blend.scales
        self._rows, self._values, self._popularity = tables.neighbours, tables.neighbour_values, tables.windows
        self._evidence_scale = tf.constant(scales.evidence / SHARPNESS)
        self._network_scale = scales.network
        self._facts = tf.constant(scales.facts_mean), tf.constant(scales.facts_deviation)
        self._rank, self._retrieve = blend.rank, blend.retrieve
        self._num_rows = len(blend.popularity)

    def weigh(self, history: tf.Tensor, age_s: tf.Tensor) -> WeighedUser:
        """history int32 [batch, history], newest first, and the ages."""
        is_met = history >= FIRST_ROW
        same = tf.cast(history[:, :, None] == history[:, None, :], tf.int32)
        came_later = tf.reduce_sum(tf.linalg.band_part(same, -1, 0), axis=2) > 1  # itself and a newer one
        is_first = is_met & ~came_later
        place = tf.cast(tf.cumsum(tf.cast(is_first, tf.int32), axis=1) - 1, tf.float32)
        faded = tf.exp(-place[:, :, None] / tf.constant(FADINGS, tf.float32))
        return WeighedUser(
            history=history,
            fadings=tf.where(is_first[:, :, None], faded, 0.0),
            facts=self._known(is_first, age_s),
        )

    def _known(self, is_first: tf.Tensor, age_s: tf.Tensor) -> tf.Tensor:
        """Facts [batch, facts], standardised."""
        items = tf.reduce_sum(tf.cast(is_first, tf.float32), axis=1)
        is_empty = items == 0
        gap_days = tf.maximum(age_s[:, 0], 0.0) / 86_400.0
        always, empty = tf.ones_like(items), tf.cast(is_empty, tf.float32)
        facts = tf.stack([always, tf.math.log1p(items), tf.math.log1p(gap_days), empty], axis=1)
        mean, deviation = self._facts
        scaled = tf.clip_by_value((facts - mean) / deviation, -FACT_LIMIT, FACT_LIMIT)
        average = tf.stack([always, tf.zeros_like(items), tf.zeros_like(items), empty], axis=1)
        return tf.where(is_empty[:, None], average, scaled)

    def rank(self, user: WeighedUser, rows: tf.Tensor, dots: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
        """Log-odds [batch, candidates] of item rows, with the network's logits likewise.

        Of the neighbours only the candidates count, so each row of the catalogue is given a slot: 0 for no candidate.
        """
        batch, count = tf.shape(rows)[0], tf.shape(rows)[1]
        own = tf.repeat(tf.range(batch), count)
        index = tf.stack([own, tf.reshape(rows, [-1])], axis=1)
        empty = tf.zeros([batch, self._num_rows], tf.int32)
        slots = tf.tensor_scatter_nd_max(empty, index, tf.tile(tf.range(1, count + 1), [batch]))
        met = self._rows.gather(user.history)  # [batch, history, matrices, neighbours]
        slot = tf.gather(slots, tf.reshape(met, [batch, -1]), batch_dims=1)
        slot = tf.reshape(slot, tf.shape(met))
        hit = tf.where(slot > 0)  # [hits, 4]
        values = tf.gather_nd(self._values.gather(user.history), hit)
        spoken = values[:, None] * tf.gather_nd(user.fadings, hit[:, :2])  # [hits, fadings]
        place = tf.stack([hit[:, 0], tf.cast(tf.gather_nd(slot, hit), tf.int64), hit[:, 2]], axis=1)
        shape = tf.stack([batch, count + 1, len(MATRICES), len(FADINGS)])
        evidence = tf.scatter_nd(place, spoken, tf.cast(shape, tf.int64))
        evidence = tf.gather(evidence, tf.gather(slots, rows, batch_dims=1), batch_dims=1)
        weights = tf.matmul(user.facts, self._rank.weights, transpose_b=True)  # [batch, channels]
        popularity = self._popularity.gather(rows)  # [batch, candidates, P]
        logits = self._of_evidence(weights, evidence)
        logits += tf.einsum("bnp,bp->bn", popularity, weights[:, len(EVIDENCE_CHANNELS) : -2])
        logits += weights[:, -2:-1] * dots / self._network_scale[0] + weights[:, -1:] * head / self._network_scale[1]
        return _calibrated(self._rank, user, logits)

    def catalogue(self, user: WeighedUser, dots: tf.Tensor) -> tf.Tensor:
        """Log-odds [batch, rows] of the whole catalogue."""
        batch = tf.shape(user.history)[0]
        met = self._rows.gather(user.history)  # [batch, history, matrices, neighbours]
        values = self._values.gather(user.history)
        spoken = values[..., None] * user.fadings[:, :, None, None, :]
        shape = tf.shape(met)
        users = tf.broadcast_to(tf.range(batch)[:, None, None, None], shape)
        kinds = tf.broadcast_to(tf.range(len(MATRICES))[None, None, :, None], shape)
        place = tf.stack([users, met, kinds], axis=-1)
        evidence = tf.scatter_nd(place, spoken, tf.stack([batch, self._num_rows, len(MATRICES), len(FADINGS)]))
        weights = tf.matmul(user.facts, self._retrieve.weights, transpose_b=True)  # [batch, channels]
        logits = self._of_evidence(weights, evidence)
        logits += self._popularity.dots(weights[:, len(EVIDENCE_CHANNELS) : -2])
        logits += weights[:, -2:-1] * dots / self._network_scale[0]
        return _calibrated(self._retrieve, user, logits)

    def _of_evidence(self, weights: tf.Tensor, evidence: tf.Tensor) -> tf.Tensor:
        """[batch, items] of evidence [batch, items, matrices, fadings]."""
        scaled = tf.math.log1p(evidence / self._evidence_scale) / np.float32(np.log1p(SHARPNESS))
        own = tf.reshape(weights[:, : len(EVIDENCE_CHANNELS)], [-1, len(MATRICES), len(FADINGS)])
        return tf.einsum("bnmf,bmf->bn", scaled, own)


def _calibrated(mix: Mix, user: WeighedUser, logits: tf.Tensor) -> tf.Tensor:
    slope_and_offset = tf.matmul(user.facts, mix.calibration, transpose_b=True)
    return tf.maximum(slope_and_offset[:, :1], LEAST_SLOPE) * logits + slope_and_offset[:, 1:]
