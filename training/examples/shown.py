"""What users were shown and did not choose: hard negatives of the ranking head.

Beside the sampled negatives of a moment stand the next items that the user was shown from there on and did not choose.
Each counts in the head's losses as

    weight = examination(rank) × min(1 / propensity, cut)

- examination: an item that was not looked at was not refused. Under the position-based model (Richardson, Dominowska
  and Ragno 2007) what is not chosen at rank k was refused with about that probability, as long as choices are rare. A
  rank at which nothing was drawn, so that it has none, counts as the next below it that has: what stands higher is
  looked at no less.
- inverse propensity: what is shown seldom stands for what could have been shown (Horvitz and Thompson 1952; Joachims,
  Swaminathan and Schnabel 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.decisions.impressions import SCHEMA_VERSION, VERSION_KEY, WINDOW_KEY
from feature_repo.errors import LongtailError
from training.log.engagements import Engagements
from training.log.popularity import DAY_US

PER_MOMENT: Final = 8
COLUMNS: Final = ("user_id", "item_id", "rank", "shown_at", "weight", "examination", "label")
WRITE_IT: Final = "write it with `longtail impressions`"


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Items shown and not chosen, by user and time; codes are the log's."""

    user: np.ndarray  # int32 [rows]
    item: np.ndarray  # int32 [rows]
    time_us: np.ndarray  # int64 [rows]
    known_us: np.ndarray  # int64 [rows], from when it is known that the item was not chosen
    weight: np.ndarray  # float32 [rows]

    def __len__(self) -> int:
        return len(self.user)

    def where(self, keep: np.ndarray) -> Refused:
        return Refused(**{name: getattr(self, name)[keep] for name in self.__dataclass_fields__})

    def before(self, cut_us: int) -> Refused:
        """What was known by then."""
        return self.where(self.known_us <= cut_us)

    def after(self, user: np.ndarray, time_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The next items that these users were shown from these times on: item codes, −1 for none, and weights.

        [moments, PER_MOMENT] twice.
        """
        low = self._position(user, time_us)
        high = np.searchsorted(self.user, user, side="right")
        place = low[:, None] + np.arange(PER_MOMENT)
        is_item = place < high[:, None]
        place = np.minimum(place, len(self) - 1)
        return np.where(is_item, self.item[place], -1), np.where(is_item, self.weight[place], 0.0)

    def _position(self, user: np.ndarray, time_us: np.ndarray) -> np.ndarray:
        """Of the user's first row at or after that time."""
        order = np.lexsort((np.r_[np.zeros(len(user)), np.ones(len(self))], *self._keys(user, time_us)))
        is_asked = order < len(user)
        found = np.zeros(len(user), np.int64)
        found[order[is_asked]] = np.cumsum(~is_asked)[is_asked]
        return found

    def _keys(self, user: np.ndarray, time_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.r_[time_us, self.time_us], np.r_[user, self.user]


def read_refused(file: Path, log: Engagements) -> Refused:
    """What `longtail impressions` wrote, as far as the log knows users and items. Raises LongtailError."""
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise LongtailError(f"the impressions {file} cannot be read: {error}; {WRITE_IT}") from error
    told = table.schema.metadata or {}
    missing = [name for name in COLUMNS if name not in table.column_names]
    version = told.get(VERSION_KEY, b"none").decode()
    if missing or version != str(SCHEMA_VERSION) or WINDOW_KEY not in told:
        what = f"lacks the columns {', '.join(missing)}" if missing else f"has schema version {version}"
        raise LongtailError(f"the impressions {file} {what}, this longtail reads {SCHEMA_VERSION}; {WRITE_IT} again")
    frame = table.select(COLUMNS).to_pandas()
    frame["examination"] = frame["rank"].map(_examination(file, frame))
    weight = (frame["examination"] * frame["weight"]).to_numpy(np.float64)
    if (bad := frame[~(weight >= 0) & frame["examination"].notna()]).shape[0]:
        raise LongtailError(
            f"the impressions {file} have {len(bad)} rows whose weight is below 0 or missing; {WRITE_IT}"
        )
    user = pd.Index(log.user_ids).get_indexer(frame["user_id"])
    item = pd.Index(log.item_ids).get_indexer(frame["item_id"])
    time_us = frame["shown_at"].to_numpy(dtype="datetime64[us]").astype(np.int64)
    keep = ~frame["label"].to_numpy(bool) & (user >= 0) & (item >= 0) & (weight > 0)
    order = np.flatnonzero(keep)
    order = order[np.lexsort((frame["rank"].to_numpy()[order], time_us[order], user[order]))]
    return Refused(
        user=user[order].astype(np.int32),
        item=item[order].astype(np.int32),
        time_us=time_us[order],
        known_us=time_us[order] + int(float(told[WINDOW_KEY]) * DAY_US),
        weight=weight[order].astype(np.float32),
    )


def _examination(file: Path, frame: pd.DataFrame) -> pd.Series:
    """By rank, those without from the next below."""
    by_rank = frame.groupby("rank")["examination"].first().sort_index().bfill()
    if by_rank.isna().all():
        raise LongtailError(
            f"the impressions {file} have no examination: nothing was drawn, or no drawn item had an outcome, so that "
            "nobody can tell what was looked at; let exploration run, and write it again"
        )
    return by_rank
