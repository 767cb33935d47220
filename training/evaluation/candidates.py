"""The best items of each user asked, with what the policy goes by and what the user then did."""

from __future__ import annotations

import numpy as np
import pandas as pd

from feature_repo.decisions.ranked_candidates import COLUMNS
from training.blend.calibration import probability
from training.evaluation.asking import Sheet, make_sheet, share_of_users, top_items
from training.evaluation.scoring import Scorer
from training.examples.preparation import Preparation
from training.examples.split import Question
from training.vocabulary import PADDING


def candidate_frame(
    question: Question, prepared: Preparation, scorer: Scorer, state: np.ndarray, *, k: int
) -> pd.DataFrame:
    """`ranked_candidates.COLUMNS`, k rows a user at most, best first; `state` is [users]."""
    sheet = make_sheet(question, prepared.tables.item_row, prepared.num_rows)
    fit = prepared.fit
    bits = -np.log2(share_of_users(sheet, prepared.tables.item_row[fit.item], fit.user))  # [rows]
    tail = tail_percentiles(np.bincount(fit.user, minlength=len(fit.user_ids)))[question.moments.user]
    user_ids = fit.user_ids[question.moments.user].astype(str)
    item_ids = np.concatenate([["", ""], fit.item_ids[prepared.known_items]]).astype(str)  # [rows]
    targets = np.bincount(sheet.target_row, minlength=sheet.num_users)
    parts = []
    for users in sheet.chunks():
        row, item, score, is_target = _best(sheet, scorer, users, k)
        user = row + users.start
        parts.append(
            pd.DataFrame(
                {
                    "user_id": user_ids[user],
                    "state": state[user].astype(str),
                    "tail_percentile": tail[user],
                    "targets": targets[user],
                    "item_id": item_ids[item],
                    "score": score,
                    "novelty_bits": bits[item],
                    "is_target": is_target,
                }
            )[list(COLUMNS)]
        )
    return pd.concat(parts, ignore_index=True)


def _best(sheet: Sheet, scorer: Scorer, users: slice, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Place in the chunk, item row, probability and whether it is a target, of each candidate."""
    logits = np.asarray(scorer(users), np.float64)
    is_past, is_target = sheet.dense(users)
    top = top_items(logits, is_past, k)  # [users, k]
    row, place = np.nonzero(top != PADDING)
    item = top[row, place]
    return row, item, probability(logits[row, item], 1.0, 0.0), is_target[row, item]


def tail_percentiles(events: np.ndarray) -> np.ndarray:
    """Share of the other users, of those with any, with more events, equals half: [users]; as `user_activity` has it.

    >>> tail_percentiles(np.array([5, 1, 0, 9])).tolist()
    [0.5, 1.0, 1.0, 0.0]
    """
    ordered = np.sort(events[events > 0])
    more = len(ordered) - np.searchsorted(ordered, events, side="right")
    equal = np.maximum(np.searchsorted(ordered, events, "right") - np.searchsorted(ordered, events, "left") - 1, 0)
    others = max(len(ordered) - 1, 1)
    shares: np.ndarray = np.minimum((more + equal / 2) / others, 1.0)
    return shares
