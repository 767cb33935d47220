"""Training examples of the sequence encoders: every place of a user's life asks what came next.

A life is cut into windows: so many events are asked for, and as many older ones are read before them. Windows are
packed into rows of one length, several to a row, so that no batch is mostly padding and every batch has one shape.
A token at place k of a window, newest first, asks for the event k places before the window's last; see
training.network.encoders for what it reads. The head learns at a few tokens of each row, the moments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.examples.moments import Moments, Sampler, Tables
from training.log.engagements import Engagements
from training.log.popularity import PopularityTable
from training.vocabulary import FIRST_ROW, PADDING

LONGEST = 500  # events of one user that are asked for in an epoch, the latest; more would make one user outweigh many
MOMENTS_PER_ROW = 4


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Stretches of lives; positions are those of the log."""

    first: np.ndarray  # int64 [windows], the oldest event that is read or asked for
    asked: np.ndarray  # int64 [windows], the oldest event that is asked for
    last: np.ndarray  # int64 [windows], the newest event that is asked for

    def __len__(self) -> int:
        return len(self.first)

    @property
    def length(self) -> np.ndarray:
        """Tokens: int64 [windows]."""
        return np.asarray(self.last - self.first + 1)


def cut_windows(log: Engagements, *, length: int, rng: np.random.Generator) -> Windows:
    """Every event is asked for once, with at least half a window before it if there is as much; the cuts are random."""
    starts = log.starts
    count = np.diff(starts)
    half = (length + 1) // 2
    place = np.arange(len(log)) - starts[log.user]
    shift = np.where(count > length + 1, rng.integers(0, half, len(count)), 0)[log.user]
    piece = np.where(count[log.user] > length + 1, (place + shift) // half, 0)
    is_first = np.r_[True, (log.user[1:] != log.user[:-1]) | (piece[1:] != piece[:-1])]
    asked = np.flatnonzero(is_first)
    last = np.r_[asked[1:], len(log)] - 1
    keep = starts[log.user[last] + 1] - last <= LONGEST
    asked, last = asked[keep], last[keep]
    return Windows(first=np.maximum(starts[log.user[last]], last - length), asked=asked, last=last)


def pack(lengths: np.ndarray, *, room: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Row and first token of each window: in random order, each row takes the longest that still fits.

    >>> row, token = pack(np.array([3, 2, 1]), room=4, rng=np.random.default_rng(0))
    >>> int(row.max()), sorted(token[row == row[0]].tolist())
    (1, [0, 3])
    """
    waiting: list[list[int]] = [[] for _ in range(room + 1)]
    for window in rng.permutation(len(lengths)):
        waiting[lengths[window]].append(int(window))
    row, token = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    left, rows = len(lengths), 0
    while left:
        free = room
        for length in range(room, 0, -1):
            while length <= free and waiting[length]:
                window = waiting[length].pop()
                row[window], token[window] = rows, room - free
                free -= length
                left -= 1
        rows += 1
    return row, token


@dataclass(frozen=True, kw_only=True)
class SequenceExamples:
    """Everything an epoch is packed from."""

    log: Engagements
    tables: Tables
    sampler: Sampler  # targets and negatives of the moments
    user_features: np.ndarray  # float32 [events, F], of the event's user just before it
    popularity: PopularityTable
    weight: np.ndarray  # float32 [events], 0 where the event is no target
    history_length: int
    user_dropout: float
    shared_negatives: int
    mask_share: float  # of bert's tokens; 0 for the transformer, whose tokens are all asked

    def pack(self, rng: np.random.Generator) -> PackedRows:
        """One epoch's rows."""
        windows = cut_windows(self.log, length=self.history_length, rng=rng)
        room = self.history_length + 1
        row, token = pack(windows.length, room=room, rng=rng)
        order = np.argsort(row, kind="stable")
        windows = Windows(first=windows.first[order], asked=windows.asked[order], last=windows.last[order])
        return PackedRows(examples=self, windows=windows, row=row[order], token=token[order], room=room)

    @property
    def users(self) -> np.ndarray:
        """Whose each row of `user_features` is: int32 [events]."""
        return self.log.user

    @property
    def history_lengths(self) -> np.ndarray:
        """Behaviours before each event, as many as are read: int64 [events]."""
        place = np.arange(len(self.log)) - self.log.starts[self.log.user]
        return np.asarray(np.minimum(place, self.history_length))

    @property
    def takes_all_items(self) -> bool:
        """True where the catalogue is so small that every item is a negative."""
        return self.sampler.num_items <= 2 * self.shared_negatives


@dataclass(frozen=True, kw_only=True)
class PackedRows:
    """The rows of one epoch, cut into batches on demand."""

    examples: SequenceExamples
    windows: Windows  # sorted by row
    row: np.ndarray  # int64 [windows]
    token: np.ndarray  # int64 [windows], where in the row each begins
    room: int

    def __len__(self) -> int:
        return int(self.row[-1]) + 1

    def batch(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Inputs and labels of these rows, in ascending order."""
        examples, size = self.examples, len(rows)
        low, high = np.searchsorted(self.row, rows), np.searchsorted(self.row, rows, side="right")
        chosen = np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True)])
        in_batch = np.repeat(np.arange(len(rows)), high - low)
        length = self.windows.length[chosen]
        window = np.repeat(np.arange(len(chosen)), length)
        back = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)  # 0 is the newest
        event = self.windows.last[chosen][window] - back
        at = (in_batch[window], self.token[chosen][window] + back)
        is_oldest = back == length[window] - 1
        is_asked = event >= self.windows.asked[chosen][window]
        read, gap_s, is_masked = self._reads(event, back, is_oldest, rng)
        # where a window begins within a life, nothing is known of what came before: no question
        is_asked &= is_masked if examples.mask_share > 0 else ~is_oldest | self._is_birth(event)
        weight = np.where(is_asked, examples.weight[event], 0.0)
        shape = (size, self.room)

        def placed(values: np.ndarray, dtype: type) -> np.ndarray:
            filled: np.ndarray = np.zeros(shape + values.shape[1:], dtype)
            filled[at] = values
            return filled

        log, tables = examples.log, examples.tables
        inputs = {
            "items": placed(np.where(is_masked, PADDING, tables.item_row[log.item[read]]), np.int32),
            "types": placed(np.where(is_masked, PADDING, tables.type_row[log.event_type[read]]), np.int32),
            "gap_s": placed(gap_s, np.float32),
            "segment": placed(1 + window, np.int32),
            "user_features": placed(examples.user_features[event], np.float32),
            "history_length": placed(
                np.minimum(event - log.starts[log.user[event]], examples.history_length), np.int32
            ),
            "targets": placed(tables.item_row[log.item[event]], np.int32),
            "target_weight": placed(weight, np.float32),
        }
        can_ask = (weight > 0) & ((back == 0) if examples.mask_share > 0 else self._starts_visit(event))
        moment, asked = _choose(at, event, can_ask, size, rng)
        head, labels = self._head(asked, rng)
        return inputs | {"moment": moment} | head | self._negatives(size, rng), labels

    def _reads(
        self, event: np.ndarray, back: np.ndarray, is_oldest: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The event each token reads, the seconds until the next one, and is_masked: nothing is read there."""
        time_us = self.examples.log.time_us
        if self.examples.mask_share > 0:
            is_masked = (back == 0) | (rng.random(len(event)) < self.examples.mask_share)
            read, following = event, np.minimum(event + 1, len(time_us) - 1)
        else:
            is_masked = is_oldest
            read, following = np.maximum(event - 1, 0), event
        return read, np.where(is_masked, 0.0, (time_us[following] - time_us[read]) / 1e6), is_masked

    def _is_birth(self, event: np.ndarray) -> np.ndarray:
        log = self.examples.log
        return np.asarray(event == log.starts[log.user[event]])

    def _starts_visit(self, event: np.ndarray) -> np.ndarray:
        """The user's features are of strictly before, so the head learns where time has passed."""
        time_us = self.examples.log.time_us
        return np.asarray(self._is_birth(event) | (time_us[event] > time_us[event - 1]))

    def _head(self, asked: np.ndarray, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Candidates of the moments; `asked` [rows, moments] is an event of the log, −1 for none."""
        examples = self.examples
        log, sampler = examples.log, examples.sampler
        is_moment = asked.reshape(-1) >= 0
        event = np.maximum(asked.reshape(-1), 0)
        user, as_of_us = log.user[event], log.time_us[event]
        moments = Moments(user=user, start=log.starts[user], end=event, as_of_us=as_of_us)
        items, labels, weights = sampler.candidates(moments, rng)
        labels[~is_moment] = -1.0
        log_odds = np.log(np.maximum(sampler.sampling.negatives * sampler.probability[items], 1e-9))
        period = examples.popularity.periods(as_of_us)
        keeps = is_moment & (rng.random(len(event)) >= examples.user_dropout)
        share = len(log.user_ids) / max(1, len(log) * MOMENTS_PER_ROW / self.room)  # each user's prior once an epoch

        def by_row(values: np.ndarray, dtype: type) -> np.ndarray:
            return values.reshape(*asked.shape, *values.shape[1:]).astype(dtype)

        return {name: by_row(values, np.float32) for name, values in weights.items()} | {
            "user": by_row(np.where(keeps, user + 1, 0), np.int32),
            "candidate_items": by_row(items, np.int32),
            "candidate_popularity": by_row(examples.popularity.features[period[:, None], items], np.float32),
            "candidate_log_odds": by_row(log_odds, np.float32),
            "example_weight": by_row(np.where(is_moment, examples.weight[event], 0.0), np.float32),
            "prior_share": by_row(np.where(keeps, share, 0.0), np.float32),
        }, by_row(labels, np.float32)

    def _negatives(self, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Items that the whole batch shares as negatives, and their log odds: [rows, negatives / rows], 0 pads."""
        examples, sampler = self.examples, self.examples.sampler
        if examples.takes_all_items:
            drawn = np.arange(FIRST_ROW, FIRST_ROW + sampler.num_items)
            log_odds = np.zeros(len(drawn))
        else:
            drawn = sampler.draw((examples.shared_negatives,), rng)
            log_odds = np.log(examples.shared_negatives * sampler.probability[drawn])
        fill = -len(drawn) % size
        return {
            "negatives": np.pad(drawn, (0, fill)).reshape(size, -1).astype(np.int32),
            "negative_log_odds": np.pad(log_odds, (0, fill)).reshape(size, -1).astype(np.float32),
        }


def _choose(
    at: tuple[np.ndarray, np.ndarray], event: np.ndarray, can_ask: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A few tokens of each row at random, and the event each asks for: [rows, moments] twice, −1 for no event."""
    rows, tokens = at[0][can_ask], at[1][can_ask]
    order = np.lexsort((rng.random(len(rows)), rows))
    place = np.arange(len(order)) - np.searchsorted(rows[order], rows[order])
    order, place = order[place < MOMENTS_PER_ROW], place[place < MOMENTS_PER_ROW]
    moment = np.zeros((size, MOMENTS_PER_ROW), np.int32)
    asked = np.full((size, MOMENTS_PER_ROW), -1, np.int64)
    moment[rows[order], place] = tokens[order]
    asked[rows[order], place] = event[can_ask][order]
    return moment, asked
