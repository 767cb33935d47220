"""Fits a recommender to the log before a cut: epochs, early stopping, checkpoints, resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from feature_repo.errors import LongtailError
from training import devices, fill_values
from training.checkpoint import Checkpoint, Checkpoints
from training.engagements import Engagements
from training.examples import Examples, Sampling, Tables, make_sampler, sample_moments
from training.items import ItemTerms
from training.model import Objective, Recommender, build
from training.popularity import DAY_US, PopularityTable, popularity_table
from training.sequences import PackedRows, SequenceExamples
from training.settings import TrainingSettings
from training.shape import ModelShape
from training.shown import Refused
from training.vocabulary import FIRST_ROW, UNKNOWN

LEAST_BATCH = 16
LEAST_STEPS = 100  # in an epoch, as long as batches are not smaller than LEAST_BATCH

UserFeatures = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(user codes [n], as_of_us [n]) → float32 [n, F], NaN where missing, from events strictly before each moment."""


def _nothing(known_items: np.ndarray) -> None:
    """No catalogue."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The log before a cut, in rows of the model."""

    fit: Engagements
    known_items: np.ndarray  # int64 [items], item codes in row order
    tables: Tables
    popularity: PopularityTable
    cut_us: int
    terms: ItemTerms | None = None  # what the catalogue says of the items; None where nothing is read of it
    refused: Refused | None = None  # what users were shown and did not choose; None where nothing is known of it

    @property
    def num_rows(self) -> int:
        return len(self.known_items) + FIRST_ROW


def prepare(
    fit: Engagements,
    cut_us: int,
    terms: Callable[[np.ndarray], ItemTerms | None] = _nothing,
    refused: Refused | None = None,
) -> Preparation:
    """Gives every item and type of the log a row; what the log does not have is unknown."""
    known_items = np.unique(fit.item)
    item_row = np.full(len(fit.item_ids), UNKNOWN, np.int32)
    item_row[known_items] = FIRST_ROW + np.arange(len(known_items), dtype=np.int32)
    type_row = FIRST_ROW + np.arange(len(fit.event_types), dtype=np.int32)
    num_rows = len(known_items) + FIRST_ROW
    return Preparation(
        fit=fit,
        known_items=known_items,
        tables=Tables(item_row=item_row, type_row=type_row),
        popularity=popularity_table(
            item_row[fit.item], fit.time_us, fit.is_returning(), num_rows=num_rows, end_us=cut_us
        ),
        cut_us=cut_us,
        terms=terms(known_items),
        refused=refused.before(cut_us) if refused is not None and len(refused.before(cut_us)) else None,
    )


AnyExamples = Examples | SequenceExamples


def make_examples(prepared: Preparation, user_features: UserFeatures, settings: TrainingSettings) -> AnyExamples:
    """What the encoder learns from: moments, or whole sequences."""
    if settings.encoder == "attention":
        return _moments(prepared, user_features, settings)
    return _sequences(prepared, user_features, settings)


def _moments(prepared: Preparation, user_features: UserFeatures, settings: TrainingSettings) -> Examples:
    """Moments of the log with their features; raises LongtailError where no user has a next item."""
    fit = prepared.fit
    rng = np.random.default_rng([settings.seed, 0])
    sampling = Sampling(
        positives=settings.positives,
        negatives=settings.negatives,
        popularity_share=settings.popularity_share,
        horizon=settings.horizon,
    )
    sampler = make_sampler(fit, prepared.tables, len(prepared.known_items), sampling, prepared.refused)
    moments = sample_moments(fit, per_user=settings.moments_per_user, rng=rng)
    moments = moments.take(np.flatnonzero(sampler.has_target(moments)))
    count = np.bincount(moments.user, minlength=len(fit.user_ids))
    return Examples(
        sampler=sampler,
        moments=moments,
        user_features=user_features(moments.user, moments.as_of_us),
        popularity=prepared.popularity,
        weight=_weights(prepared, moments.is_return(fit), moments.as_of_us, settings),
        prior_share=(1.0 / np.maximum(count, 1)).astype(np.float32),
        user_dropout=settings.user_dropout,
        history_length=settings.history_length,
    )


def _sequences(prepared: Preparation, user_features: UserFeatures, settings: TrainingSettings) -> SequenceExamples:
    """The log as sequences; what is asked for are a user's first meetings of items."""
    fit = prepared.fit
    sampling = Sampling(
        positives=1,
        negatives=settings.negatives,
        popularity_share=settings.shared_popularity_share,
        horizon=1,
    )
    weight = fit.first_of_each_item().astype(np.float32)
    if settings.half_life_days > 0:
        weight *= 2.0 ** (-(prepared.cut_us - fit.time_us) / DAY_US / settings.half_life_days)
    return SequenceExamples(
        log=fit,
        tables=prepared.tables,
        sampler=make_sampler(fit, prepared.tables, len(prepared.known_items), sampling, prepared.refused),
        user_features=user_features(fit.user, fit.time_us),
        popularity=prepared.popularity,
        weight=(weight / weight.mean()).astype(np.float32),
        history_length=settings.history_length,
        user_dropout=settings.user_dropout,
        shared_negatives=settings.shared_negatives,
        mask_share=settings.mask_share if settings.encoder == "bert" else 0.0,
    )


def _weights(
    prepared: Preparation, is_return: np.ndarray, as_of_us: np.ndarray, settings: TrainingSettings
) -> np.ndarray:
    """Float32 [moments], mean 1: returns count more, and old examples less where a half-life is set."""
    weight: np.ndarray = np.where(is_return, settings.return_weight, 1.0)
    if settings.half_life_days > 0:
        weight = weight * 2.0 ** (-(prepared.cut_us - as_of_us) / DAY_US / settings.half_life_days)
    share: np.ndarray = (weight / weight.mean()).astype(np.float32)
    return share


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
            num_terms=prepared.terms.num_terms if prepared.terms else 0,
            terms_per_item=prepared.terms.ids.shape[1] if prepared.terms else 0,
            own_dropout=settings.own_dropout,
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
        optimizer=keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay),
        jit_compile=keras.backend.backend() == "jax",  # it is nothing without; the others are no faster for it on CPU
    )
    return recommender


def batch_size(moments: int, settings: TrainingSettings) -> int:
    """As set, or smaller for a small log: it must give steps enough to learn from.

    >>> batch_size(100_000, TrainingSettings(batch_size=128)), batch_size(1_600, TrainingSettings(batch_size=128))
    (128, 16)
    """
    return min(settings.batch_size, max(LEAST_BATCH, moments // LEAST_STEPS))


def make_batches(examples: AnyExamples, settings: TrainingSettings, first_epoch: int = 0) -> keras.utils.PyDataset:
    """Streams batches of what the encoder learns from."""
    if isinstance(examples, Examples):
        return Batches(examples, settings, first_epoch)
    return PackedBatches(examples, settings, first_epoch)


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # the library ships no types
    """Streams batches; epoch e draws order, targets and negatives from (seed, e), so a resumed run draws the same."""

    def __init__(self, examples: Examples, settings: TrainingSettings, first_epoch: int = 0) -> None:
        super().__init__()
        self._examples, self._settings, self._epoch = examples, settings, first_epoch
        self._size = batch_size(len(examples.moments), settings)
        self._shuffle()

    def _shuffle(self) -> None:
        rng = np.random.default_rng([self._settings.seed, 1, self._epoch])
        self._order = rng.permutation(len(self._examples.moments))

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._size)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        rows = self._order[index * self._size : (index + 1) * self._size]
        rng = np.random.default_rng([self._settings.seed, 2, self._epoch, index])
        return devices.divisible(*self._examples.batch(rows, rng))

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._shuffle()


class PackedBatches(keras.utils.PyDataset):  # type: ignore[misc]  # the library ships no types
    """The same of sequences: each epoch is packed anew, and all batches of a run have one shape."""

    def __init__(self, examples: SequenceExamples, settings: TrainingSettings, first_epoch: int = 0) -> None:
        super().__init__()
        self._examples, self._settings, self._epoch = examples, settings, first_epoch
        usual = len(self._packed(0))  # epochs differ by a few rows, but not in their batches
        self._size = batch_rows(usual, settings)
        self._batches = math.ceil(usual / self._size)
        self._rows = self._packed(first_epoch)

    def _packed(self, epoch: int) -> PackedRows:
        return self._examples.pack(np.random.default_rng([self._settings.seed, 1, epoch]))

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        order = np.random.default_rng([self._settings.seed, 3, self._epoch]).permutation(len(self._rows))
        place = np.arange(index * self._size, (index + 1) * self._size)
        rows = np.sort(np.take(order, place, mode="wrap"))  # the last batch is filled from the first
        rng = np.random.default_rng([self._settings.seed, 2, self._epoch, index])
        return devices.divisible(*self._rows.batch(rows, rng))

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._rows = self._packed(self._epoch)


def batch_rows(rows: int, settings: TrainingSettings) -> int:
    """As set, or fewer for a small log.

    >>> batch_rows(10_000, TrainingSettings(batch_rows=32)), batch_rows(90, TrainingSettings(batch_rows=32))
    (32, 2)
    """
    return min(settings.batch_rows, max(2, rows // LEAST_STEPS))


class DivergedError(LongtailError):
    """The loss or the weights are no numbers any more: these settings cannot be trained with."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of the learning curve."""

    epoch: int  # from 1
    loss: float
    validation_ndcg: float | None  # at 10; None where nothing is validated

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def measured(self) -> dict[str, float]:
        """What there is to plot."""
        score = self.validation_ndcg
        return {"loss": self.loss} | ({} if score is None else {"validation_ndcg": score})


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted recommender and how it got there. The weights are those of the best epoch."""

    recommender: Recommender
    epochs: list[Epoch]
    best_epoch: int


OnEpoch = Callable[[Epoch], None]
OnStep = Callable[[int, int], None]  # (steps done, steps in all)


def fit(
    recommender: Recommender,
    examples: AnyExamples,
    settings: TrainingSettings,
    *,
    epochs: int,
    checkpoints: Checkpoints,
    resume: bool,
    validate: Callable[[], float] | None = None,
    on_epoch: OnEpoch = lambda epoch: None,
    on_step: OnStep = lambda done, total: None,
) -> Fit:
    """Trains for so many epochs, or until validation NDCG has not risen for `patience`; then restores the best epoch.

    A checkpoint is kept after each epoch; with `resume` the run goes on from the last one as if never interrupted.
    """
    state = checkpoints.restore(recommender) if resume else checkpoints.start()
    watch = _Watch(
        state=state,
        validate=validate,
        settings=settings,
        checkpoints=checkpoints,
        on_epoch=on_epoch,
        on_step=on_step,
        epochs=epochs,
    )
    if not state.stopped and state.done_epochs < epochs:
        batches = make_batches(examples, settings, first_epoch=state.done_epochs)
        recommender.fit(
            batches, initial_epoch=state.done_epochs, epochs=epochs, verbose=0, shuffle=False, callbacks=[watch]
        )
    checkpoints.restore_best(recommender)
    return Fit(
        recommender=recommender, epochs=[Epoch(**row) for row in watch.state.epochs], best_epoch=watch.state.best_epoch
    )


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]  # the library ships no types
    """Validates, keeps checkpoints, and stops on a stall or on a loss that is no number."""

    def __init__(
        self,
        *,
        state: Checkpoint,
        validate: Callable[[], float] | None,
        settings: TrainingSettings,
        checkpoints: Checkpoints,
        on_epoch: OnEpoch,
        on_step: OnStep,
        epochs: int,
    ) -> None:
        super().__init__()
        self.state, self._validate, self._settings, self._checkpoints = state, validate, settings, checkpoints
        self._on_epoch, self._on_step, self._epochs = on_epoch, on_step, epochs
        self._done_steps = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise self._diverged(
                "the loss is no longer a finite number", f"in epoch {self.state.done_epochs + 1}, step {batch + 1}"
            )
        self._done_steps += 1
        self._on_step(self._done_steps, self._epochs * self.params["steps"])

    def _diverged(self, what: str, where: str) -> DivergedError:
        kept = self.state.done_epochs
        return DivergedError(
            f"{what} {where}; {f'the checkpoint after epoch {kept} is kept' if kept else 'no epoch was finished'}; "
            f"lower training.learning_rate (now {self._settings.learning_rate:g}) and train again"
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not all(np.isfinite(variable).all() for variable in self.model.trainable_variables):
            raise self._diverged("the weights are no longer finite numbers", f"at the end of epoch {epoch + 1}")
        score = self._validate() if self._validate else None
        line = Epoch(epoch=epoch + 1, loss=float((logs or {})["loss"]), validation_ndcg=score)
        self.state = self.state.after(line.epoch, line.as_json(), score, self._settings.patience)
        self._checkpoints.save(self.model, self.state)
        self._on_epoch(line)
        if self.state.stopped:
            self.model.stop_training = True
