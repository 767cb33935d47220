"""A recommender as it is before its first step: built, told what is known, compiled."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from training.examples.lessons import AnyExamples
from training.examples.preparation import Preparation
from training.fitting import devices
from training.fitting.batches import make_batches
from training.model import Recommender, build
from training.network import fill_values
from training.network.objective import Objective
from training.network.shape import ModelShape
from training.settings import TrainingSettings


def new_recommender(
    prepared: Preparation, examples: AnyExamples, settings: TrainingSettings, epochs: int
) -> Recommender:
    """Untrained and compiled; the learning rate is warmed up over a tenth of the epochs and cooled to 0 by the last."""
    devices.use(settings.devices)
    keras.utils.set_random_seed(settings.seed)
    recommender = build(
        precision=settings.precision,
        shape=ModelShape(
            num_users=len(prepared.fit.user_ids),
            num_items=len(prepared.known_items),
            num_event_types=len(prepared.fit.event_types),
            encoder=settings.encoder,
            embedding_size=settings.embedding_size,
            sequence_heads=settings.sequence_heads,
            num_heads=settings.num_heads,
            num_blocks=settings.num_blocks,
            history_length=settings.history_length,
            dropout=settings.dropout,
            user_prior=settings.user_prior,
            learnt_prior=settings.learnt_prior,
            num_terms=prepared.terms.num_terms if prepared.terms else 0,
            terms_per_item=prepared.terms.ids.shape[1] if prepared.terms else 0,
            own_dropout=settings.own_dropout,
            time_gaps=settings.time_gaps,
        ),
    )
    if prepared.terms:
        recommender.items.know(prepared.terms)
    recommender.objective = Objective(
        loss=settings.loss, gbce_calibration=settings.gbce_calibration, head_weight=settings.head_weight
    )
    recommender.fill_values = fill_values.learn(
        examples.user_features, examples.users, examples.history_lengths, settings.missing_values
    )
    recommender.encoder.normalise.learn(examples.user_features, recommender.fill_values.values)
    steps = epochs * len(make_batches(examples, settings))
    warmup = max(1, steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), warmup_target=settings.learning_rate, warmup_steps=warmup
    )
    recommender.compile(
        # AdamW where there is a decay; one of 0 would be traced and computed for every variable
        optimizer=DenseAdam(rate, weight_decay=settings.weight_decay or None),
        jit_compile=keras.backend.backend() == "jax",  # it is nothing without; the others are no faster for it on CPU
    )
    recommender.optimizer.build(recommender.trainable_variables)  # else the step is traced once more when it has been
    return recommender


class DenseAdam(keras.optimizers.Adam):  # type: ignore[misc]  # the library ships no types
    """Adam that adds up what a table's row is told at its several places in a batch before it squares the sum.

    On TensorFlow the gradient of a look-up is a list of rows, of which Keras squares each and adds the squares up,
    besides adding up the rows where it needs them; other backends give it one gradient of the whole table, as here.
    """

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        dense = [None if each is None else ops.add(each, 0.0) for each in grads]
        return super().apply(dense, trainable_variables)
