"""The event log as arrays: engagements sorted by user and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from feature_repo.errors import LongtailError
from training.log.popularity import DAY_US


@dataclass(frozen=True, kw_only=True)
class Engagements:
    """One row per engagement, sorted by user and time, equal times by descending item; codes index the id arrays."""

    user_ids: np.ndarray  # str [users]
    item_ids: np.ndarray  # str [items]
    event_types: np.ndarray  # str [types]
    user: np.ndarray  # int32 [events]
    item: np.ndarray  # int32 [events]
    event_type: np.ndarray  # int32 [events]
    time_us: np.ndarray  # int64 [events], microseconds since 1970 UTC

    def __len__(self) -> int:
        return len(self.user)

    @property
    def starts(self) -> np.ndarray:
        """Where each user's events start, and one past the last user's: int64 [users + 1]."""
        return np.searchsorted(self.user, np.arange(len(self.user_ids) + 1))

    def where(self, keep: np.ndarray) -> Engagements:
        """The events where `keep` is true; the ids keep their codes."""
        return replace(
            self,
            user=self.user[keep],
            item=self.item[keep],
            event_type=self.event_type[keep],
            time_us=self.time_us[keep],
        )

    def before(self, as_of_us: int) -> Engagements:
        """The events strictly before a time."""
        return self.where(self.time_us < as_of_us)

    def is_returning(self) -> np.ndarray:
        """Bool [events]: true from a day after the user's first event on."""
        return np.asarray(self.time_us - self.time_us[self.starts[self.user]] >= DAY_US)

    def first_of_each_item(self) -> np.ndarray:
        """Bool [events]: true where the user meets the item for the first time."""
        pair = self.user.astype(np.int64) * len(self.item_ids) + self.item
        _, first = np.unique(pair, return_index=True)
        is_first = np.zeros(len(self), bool)
        is_first[first] = True
        return is_first


def nothing_to_learn_from() -> LongtailError:
    """What to do about a log without an engagement."""
    return LongtailError(
        "the event log has no engagement to learn from; import one with `longtail data import` or "
        "`longtail data fetch ml-100k`, and check that its event types have a weight above 0 in [features]"
    )


def from_frame(frame: pd.DataFrame) -> Engagements:
    """Engagements of a frame with the columns user_id, item_id, event_type, event_time (aware UTC)."""
    if frame.empty:
        raise nothing_to_learn_from()
    user, user_ids = pd.factorize(frame["user_id"].astype(str), sort=True)
    item, item_ids = pd.factorize(frame["item_id"].astype(str), sort=True)
    event_type, event_types = pd.factorize(frame["event_type"].astype(str), sort=True)
    time_us = frame["event_time"].to_numpy(dtype="datetime64[us]").astype(np.int64)
    order = np.lexsort((-item, time_us, user))  # newest first, equal times are in the order of item ids
    return Engagements(
        user_ids=np.asarray(user_ids, dtype=object),
        item_ids=np.asarray(item_ids, dtype=object),
        event_types=np.asarray(event_types, dtype=object),
        user=user[order].astype(np.int32),
        item=item[order].astype(np.int32),
        event_type=event_type[order].astype(np.int32),
        time_us=time_us[order],
    )


def from_rows(rows: Sequence[tuple[str, str, str, float]]) -> Engagements:
    """Engagements of (user, item, type, seconds since 1970), for small worlds.

    >>> from_rows([("u", "b", "view", 2.0), ("u", "a", "view", 1.0)]).item.tolist()
    [0, 1]
    """
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "event_type", "time_s"])
    frame["event_time"] = pd.to_datetime(frame["time_s"], unit="s", utc=True)
    return from_frame(frame)
