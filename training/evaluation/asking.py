"""Asks scorers the same question over the full catalogue; the user's own history is never recommended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from training.evaluation import metrics
from training.evaluation.scoring import Scorer
from training.examples.split import Question
from training.vocabulary import FIRST_ROW, PADDING

K = 10
CELLS_PER_CHUNK = 4_000_000  # users × items that are scored at once

PerUser = dict[str, np.ndarray]  # metric → float64 [users]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one scorer did."""

    per_user: PerUser
    top: np.ndarray  # int32 [users, k], item rows, best first; 0 where the catalogue has no more
    target_score: np.ndarray  # float64 [targets], the scorer's own scale
    negative_score: np.ndarray  # float64 [targets], of one uniform item that is neither past nor target


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A question in rows of the model, ready to be asked."""

    history_row: np.ndarray  # int64 [past events], row of the moments
    history_item: np.ndarray  # int32 [past events], item row
    target_row: np.ndarray  # int64 [targets], sorted
    target_item: np.ndarray  # int32 [targets], item row
    num_users: int
    num_rows: int

    def chunks(self) -> list[slice]:
        size = max(1, CELLS_PER_CHUNK // self.num_rows)
        return [slice(start, min(start + size, self.num_users)) for start in range(0, self.num_users, size)]

    def dense(self, users: slice) -> tuple[np.ndarray, np.ndarray]:
        """is_past and is_target, bool [users, rows]; the rows of padding and unknown items count as past."""
        is_past = self._mark(users, self.history_row, self.history_item)
        is_past[:, :FIRST_ROW] = True
        return is_past, self._mark(users, self.target_row, self.target_item)

    def _mark(self, users: slice, row: np.ndarray, item: np.ndarray) -> np.ndarray:
        low, high = np.searchsorted(row, [users.start, users.stop])
        marks = np.zeros((users.stop - users.start, self.num_rows), bool)
        marks[row[low:high] - users.start, item[low:high]] = True
        return marks


def make_sheet(question: Question, item_row: np.ndarray, num_rows: int) -> Sheet:
    """Rows for the question's histories and targets; targets unknown to the model were not fit on and are dropped."""
    moments = question.moments
    counts = moments.end - moments.start
    history_row = np.repeat(np.arange(len(moments)), counts)
    offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    position = np.repeat(moments.start, counts) + offset
    known = item_row[question.target_item] >= FIRST_ROW
    order = np.argsort(question.target_row[known], kind="stable")
    return Sheet(
        history_row=history_row,
        history_item=item_row[question.history.item[position]],
        target_row=question.target_row[known][order],
        target_item=item_row[question.target_item][known][order],
        num_users=len(moments),
        num_rows=num_rows,
    )


def top_items(scores: np.ndarray, is_past: np.ndarray, k: int) -> np.ndarray:
    """Item rows [users, k], best first, none of the past; 0 pads."""
    masked = np.where(is_past, -np.inf, scores)
    if k < masked.shape[1]:
        least = -np.partition(-masked, k - 1, axis=1)[:, k - 1]  # all that reach it compete, so that ties go by row
        user, row = np.nonzero(masked >= least[:, None])
        order = np.lexsort((row, -masked[user, row], user))
        user, row = user[order], row[order]
        place = np.arange(len(user)) - np.searchsorted(user, user)
        top = np.zeros((len(masked), k), np.int32)
        top[user[place < k], place[place < k]] = row[place < k]
    else:
        top = np.argsort(-masked, axis=1, kind="stable").astype(np.int32)
    return np.where(np.isneginf(np.take_along_axis(masked, top, axis=1)), PADDING, top)


def ask(sheet: Sheet, scorer: Scorer, share_of_users: np.ndarray, *, seed: int, k: int = K) -> Answer:
    """Every metric of one scorer; the negatives depend on the seed alone, so that scorers meet the same ones."""
    rng = np.random.default_rng(seed)
    tops, parts, target_scores, negative_scores = [], [], [], []
    for users in sheet.chunks():
        scores = np.asarray(scorer(users), np.float64)
        is_past, is_target = sheet.dense(users)
        top = top_items(scores, is_past, k)
        hits = np.take_along_axis(is_target, top, axis=1) & (top != PADDING)
        targets = is_target.sum(axis=1)
        is_other = ~is_past & ~is_target
        target_user, target_item = np.nonzero(is_target)
        negative_item = _one_other_each(is_other, target_user, rng)
        target_scores.append(scores[target_user, target_item])
        negative_scores.append(scores[target_user, negative_item])
        tops.append(top)
        parts.append(
            {
                "ndcg": metrics.ndcg(hits, targets),
                "recall": metrics.recall(hits, targets),
                "hit_rate": metrics.hit_rate(hits),
                "mrr": metrics.reciprocal_rank(hits),
                "auc": metrics.auc(scores, is_target, is_other),
                "novelty": metrics.novelty(top, share_of_users),
            }
        )
    return Answer(
        per_user={name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        top=np.concatenate(tops),
        target_score=np.concatenate(target_scores),
        negative_score=np.concatenate(negative_scores),
    )


def _one_other_each(is_other: np.ndarray, user: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One uniform item row for each target; a user who has met everything gets padding."""
    count = is_other.sum(axis=1)
    wanted = (rng.random(len(user)) * count[user]).astype(np.int64)  # the n-th other item of the user
    others = np.flatnonzero(is_other) % is_other.shape[1]
    start = np.cumsum(count) - count
    position = np.minimum(start[user] + wanted, max(0, len(others) - 1))
    return np.where(count[user] > 0, others[position] if len(others) else PADDING, PADDING)


def validation_ndcg(sheet: Sheet, scorer: Scorer) -> Callable[[], float]:
    """NDCG@10 over all users, the number that early stopping watches."""

    def measure() -> float:
        gains = []
        for users in sheet.chunks():
            is_past, is_target = sheet.dense(users)
            top = top_items(scorer(users), is_past, K)
            hits = np.take_along_axis(is_target, top, axis=1) & (top != PADDING)
            gains.append(metrics.ndcg(hits, is_target.sum(axis=1)))
        return float(np.concatenate(gains).mean())

    return measure


def share_of_users(sheet: Sheet, item_rows: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Share of the fit's users who have each item row, add-one smoothed: float64 [rows]."""
    pairs = np.unique(np.stack([users.astype(np.int64), item_rows.astype(np.int64)]), axis=1)
    counts = np.bincount(pairs[1], minlength=sheet.num_rows)
    share = (counts + 1) / (len(np.unique(users)) + 1)
    share[:FIRST_ROW] = 1.0  # padding tells nothing
    return np.asarray(share)


def slices(history_length: np.ndarray, fit_lengths: np.ndarray, state: np.ndarray) -> Mapping[str, np.ndarray]:
    """Bool [users] of each slice: by history length against the quantiles of the users fit on, and by state."""
    thin, tail = np.quantile(fit_lengths, [0.2, 0.8])
    by_length = {
        "all": np.ones(len(history_length), bool),
        "tail": history_length <= tail,
        "thinnest": history_length <= thin,
        "head": history_length > tail,
    }
    return by_length | {f"state: {name}": state == name for name in sorted(set(state.tolist()))}
