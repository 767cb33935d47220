"""Rankings that one can look at: of each lifecycle state the user in the middle, so that nobody picks the nice ones.

They name items, by title where the catalogue has one, and no user.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from training.evaluation.assessment import MODEL, Assessment
from training.examples.split import Question
from training.fitting.runs import Run
from training.vocabulary import FIRST_ROW

STATE: Final = "state: "
BEHAVIOURS: Final = 5
PLACES: Final = 10
BESIDE: Final = "popularity_30d"


def examples_of(run: Run, question: Question, assessment: Assessment) -> list[dict[str, Any]]:
    """Of each state the user whose NDCG@10 is the median, the lower of two; the first of those who are alike."""
    names = _titles(run.catalogue)
    ndcg = assessment.answers[MODEL].per_user["ndcg"]
    found = []
    for slice_, users in assessment.slices.items():
        if not slice_.startswith(STATE) or not users.any():
            continue
        rows = np.flatnonzero(users)
        row = int(rows[np.argsort(ndcg[rows], kind="stable")[(len(rows) - 1) // 2]])
        met = set(question.target_item[question.target_row == row].tolist())
        start, end = int(question.moments.start[row]), int(question.moments.end[row])
        past = question.history.item[start:end][::-1].tolist()
        found.append(
            {
                "state": slice_.removeprefix(STATE),
                "users": int(users.sum()),
                "ndcg": float(ndcg[row]),
                "behaviours": end - start,
                "newest": [_name(run, names, item) for item in past[:BEHAVIOURS]],
                "met": len(met),
                "lists": {
                    scorer: [
                        {"item": _name(run, names, item), "was_met": item in met}
                        for item in _top(assessment, scorer, row)
                    ]
                    for scorer in (MODEL, BESIDE)
                    if scorer in assessment.answers
                },
            }
        )
    return found


def _top(assessment: Assessment, scorer: str, row: int) -> list[int]:
    """Item codes, best first."""
    top = assessment.answers[scorer].top[row, :PLACES]
    codes: list[int] = assessment.known_items[top[top >= FIRST_ROW] - FIRST_ROW].tolist()
    return codes


def _titles(catalogue: Path | None) -> Mapping[str, str]:
    if catalogue is None or not catalogue.exists():
        return {}
    items = pd.read_parquet(catalogue, columns=["item_id", "title"]).dropna()
    return dict(zip(items["item_id"].astype(str), items["title"].astype(str), strict=True))


def _name(run: Run, titles: Mapping[str, str], item: int) -> str:
    item_id = str(run.log.item_ids[item])
    return titles.get(item_id) or item_id
