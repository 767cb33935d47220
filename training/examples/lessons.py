"""What the encoder learns from: moments of a prepared log, or whole sequences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.examples.moments import Examples, Sampling, make_sampler, sample_moments
from training.examples.preparation import Preparation
from training.examples.sequences import SequenceExamples
from training.log.popularity import DAY_US
from training.settings import TrainingSettings

AnyExamples = Examples | SequenceExamples

UserFeatures = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(user codes [n], as_of_us [n]) → float32 [n, F], NaN where missing, from events strictly before each moment."""


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
