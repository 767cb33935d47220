"""Training examples: moments of a user's life, with what the user did next.

An example is a user at a time `as_of`. Its inputs are made of events strictly before that time; its targets are items
that the user met for the first time at or after it. Negatives are drawn anew each epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.examples.shown import Refused
from training.log.engagements import Engagements
from training.log.popularity import DAY_US, PopularityTable
from training.vocabulary import FIRST_ROW, PADDING

RETURN_GAP_DAYS = 0.25  # a visit after so long a pause is a return


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Users at times. `end` is one past the user's last event strictly before `as_of_us`."""

    user: np.ndarray  # int32 [moments]
    start: np.ndarray  # int64 [moments], the user's first event
    end: np.ndarray  # int64 [moments]
    as_of_us: np.ndarray  # int64 [moments]

    def __len__(self) -> int:
        return len(self.user)

    def is_return(self, log: Engagements, *, gap_days: float = RETURN_GAP_DAYS) -> np.ndarray:
        """Bool [moments]: true where the user has a past and comes back after such a gap."""
        has_past = self.end > self.start
        next_us = log.time_us[np.minimum(self.end, len(log) - 1)]
        gap_us = next_us - log.time_us[np.maximum(self.end - 1, 0)]
        is_return: np.ndarray = has_past & (gap_us >= gap_days * DAY_US)
        return is_return

    def take(self, rows: np.ndarray) -> Moments:
        return Moments(user=self.user[rows], start=self.start[rows], end=self.end[rows], as_of_us=self.as_of_us[rows])


def moments_at(log: Engagements, users: np.ndarray, as_of_us: int | np.ndarray) -> Moments:
    """The users at a given time each."""
    starts = log.starts
    as_of = np.broadcast_to(np.asarray(as_of_us, np.int64), users.shape)
    low, high = starts[users], starts[users + 1]
    end = np.array(
        [s + np.searchsorted(log.time_us[s:e], at, side="left") for s, e, at in zip(low, high, as_of, strict=True)],
        np.int64,
    )
    return Moments(user=users.astype(np.int32), start=low, end=end.reshape(-1), as_of_us=as_of.copy())


def sample_moments(log: Engagements, *, per_user: int, rng: np.random.Generator) -> Moments:
    """Up to `per_user` moments of each user's life, each between two events of different time or before the first.

    The moment is a random time of the gap, so that the model meets users who come back as well as users in the middle
    of a visit. The longest gaps are always among them: they are the returns that activation is about.
    """
    first = np.r_[True, log.user[1:] != log.user[:-1]]
    gap_us = np.r_[0, log.time_us[1:] - log.time_us[:-1]]
    gap_us[first] = 1
    position = np.flatnonzero(gap_us > 0)
    by_gap = np.where(first[position], np.inf, gap_us[position].astype(np.float64))
    chosen = np.concatenate(
        [
            _top_per_user(log.user[position], by_gap, per_user // 4),
            _top_per_user(log.user[position], rng.random(len(position)), per_user),
        ]
    )
    end = position[np.unique(chosen)]
    back_us = np.where(first[end], 0, np.floor(rng.random(len(end)) * gap_us[end])).astype(np.int64)
    starts = log.starts
    return Moments(
        user=log.user[end], start=starts[log.user[end]], end=end.astype(np.int64), as_of_us=log.time_us[end] - back_us
    )


def _top_per_user(user: np.ndarray, value: np.ndarray, count: int) -> np.ndarray:
    """Rows with the `count` largest values of each user."""
    order = np.lexsort((-value, user))
    rank = np.arange(len(order)) - np.searchsorted(user[order], user[order])
    return order[rank < count]


@dataclass(frozen=True, kw_only=True)
class Tables:
    """How codes of the log become rows of the model: unknown items are row 1."""

    item_row: np.ndarray  # int32 [items of the log]
    type_row: np.ndarray  # int32 [types of the log]


def history_inputs(log: Engagements, moments: Moments, tables: Tables, *, length: int) -> dict[str, np.ndarray]:
    """The last `length` events before each moment, newest first, padded with 0."""
    position = moments.end[:, None] - 1 - np.arange(length)  # [moments, history]
    is_item = position >= moments.start[:, None]
    position = np.where(is_item, position, 0)
    age_us = moments.as_of_us[:, None] - log.time_us[position]
    return {
        "history_items": np.where(is_item, tables.item_row[log.item[position]], PADDING).astype(np.int32),
        "history_types": np.where(is_item, tables.type_row[log.event_type[position]], PADDING).astype(np.int32),
        "history_age_s": np.where(is_item, age_us / 1e6, 0.0).astype(np.float32),
    }


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How targets and negatives are drawn."""

    positives: int
    negatives: int
    popularity_share: float  # of the negatives, drawn by popularity; the rest uniformly
    horizon: int  # targets are drawn among the next so many new items


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Draws targets and negatives for moments of one log."""

    log: Engagements
    tables: Tables
    num_items: int
    sampling: Sampling
    new_position: np.ndarray  # int64 [new], positions in the log where a known item is new to its user
    new_before: np.ndarray  # int64 [events + 1], how many of those lie before each position
    probability: np.ndarray  # float64 [rows], of an item as a negative
    cumulative: np.ndarray  # float64 [rows]
    refused: Refused | None = None

    def has_target(self, moments: Moments) -> np.ndarray:
        """Bool [moments]: true where the user meets a known item later on."""
        has_target: np.ndarray = self.new_before[self.log.starts[moments.user + 1]] > self.new_before[moments.end]
        return has_target

    def targets(self, moments: Moments, rng: np.random.Generator) -> np.ndarray:
        """Item rows [moments, positives], 0 where there are fewer."""
        low = self.new_before[moments.end]
        high = self.new_before[self.log.starts[moments.user + 1]]
        span = np.minimum(high - low, self.sampling.horizon)
        draw = rng.random((len(moments), self.sampling.horizon))
        draw = np.where(np.arange(self.sampling.horizon) < span[:, None], draw, 2.0)
        offset = np.argsort(draw, axis=1)[:, : self.sampling.positives]
        is_target = offset < span[:, None]
        position = self.new_position[np.where(is_target, low[:, None] + offset, 0)]
        return np.where(is_target, self.tables.item_row[self.log.item[position]], PADDING)

    def candidates(
        self, moments: Moments, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Item rows and labels [moments, candidates]: 1 target, 0 negative, −1 neither.

        Where it is known what users refused, that follows, and the last is what each candidate counts, by the name of
        the model's input; elsewhere that is empty.
        """
        targets = self.targets(moments, rng)
        drawn = self.draw((len(moments), self.sampling.negatives), rng)
        weights = {}
        if self.refused is not None:
            refused, weight = self._refused(self.refused, moments)
            weights = {
                "candidate_weight": np.concatenate(
                    [np.ones((len(moments), targets.shape[1] + drawn.shape[1])), weight], axis=1
                ).astype(np.float32)
            }
            drawn = np.concatenate([drawn, refused], axis=1)
        is_none = (drawn == PADDING) | (drawn[:, :, None] == targets[:, None, :]).any(axis=2)
        items = np.concatenate([targets, drawn], axis=1).astype(np.int32)
        labels = np.concatenate([np.where(targets > 0, 1, -1), np.where(is_none, -1, 0)], axis=1)
        return items, labels.astype(np.float32), weights

    def _refused(self, refused: Refused, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
        """Rows and weights of what the users were shown after the last event before each moment, and did not choose."""
        has_past = moments.end > moments.start
        since_us = np.where(has_past, self.log.time_us[np.maximum(moments.end - 1, 0)], np.iinfo(np.int64).min)
        item, weight = refused.after(moments.user, since_us)
        row = np.where(item >= 0, self.tables.item_row[item], PADDING)
        return np.where(row >= FIRST_ROW, row, PADDING), weight

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Item rows by their probability as a negative."""
        drawn = np.searchsorted(self.cumulative, rng.random(shape), side="right").astype(np.int64)
        return np.minimum(drawn, self.num_items + FIRST_ROW - 1)


def make_sampler(
    log: Engagements, tables: Tables, num_items: int, sampling: Sampling, refused: Refused | None = None
) -> Sampler:
    """A sampler of the log's own items; popularity is the log's."""
    is_new = log.first_of_each_item() & (tables.item_row[log.item] >= FIRST_ROW)
    counts = np.bincount(tables.item_row[log.item], minlength=num_items + FIRST_ROW).astype(np.float64)
    counts[:FIRST_ROW] = 0.0
    uniform = np.r_[np.zeros(FIRST_ROW), np.full(num_items, 1.0 / num_items)]
    share = sampling.popularity_share
    probability = share * counts / counts.sum() + (1 - share) * uniform
    return Sampler(
        log=log,
        tables=tables,
        num_items=num_items,
        sampling=sampling,
        new_position=np.flatnonzero(is_new),
        new_before=np.r_[0, np.cumsum(is_new)],
        probability=probability,
        cumulative=np.cumsum(probability) / probability.sum(),
        refused=refused,
    )


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Everything a batch is cut from; nothing here grows with examples × candidates."""

    sampler: Sampler
    moments: Moments
    user_features: np.ndarray  # float32 [moments, F]
    popularity: PopularityTable
    weight: np.ndarray  # float32 [moments]
    prior_share: np.ndarray  # float32 [users], 1 / the user's moments
    user_dropout: float  # share of examples that see δ_u = 0, as new users do
    history_length: int

    @property
    def users(self) -> np.ndarray:
        """Whose each row of `user_features` is: int32 [moments]."""
        return self.moments.user

    @property
    def history_lengths(self) -> np.ndarray:
        """Behaviours before each row of `user_features`: int64 [moments]."""
        return np.asarray(np.minimum(self.moments.end - self.moments.start, self.history_length))

    def batch(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Inputs and labels of these moments, with targets and negatives drawn anew."""
        moments = self.moments.take(rows)
        items, labels, weights = self.sampler.candidates(moments, rng)
        draws = self.sampler.sampling.negatives
        log_odds = np.log(np.maximum(draws * self.sampler.probability[items], 1e-9))
        keeps = rng.random(len(rows)) >= self.user_dropout
        period = self.popularity.periods(moments.as_of_us)
        inputs = history_inputs(self.sampler.log, moments, self.sampler.tables, length=self.history_length)
        inputs |= weights | {
            "user_features": self.user_features[rows],
            "user": np.where(keeps, moments.user + 1, 0).astype(np.int32),
            "candidate_items": items,
            "candidate_popularity": self.popularity.features[period[:, None], items],
            "candidate_log_odds": log_odds.astype(np.float32),
            "example_weight": self.weight[rows],
            "prior_share": np.where(keeps, self.prior_share[moments.user], 0.0).astype(np.float32),
        }
        return inputs, labels
