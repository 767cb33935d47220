"""Honest splits: what is learnt from, and for whom and what the ranking is then asked.

Temporal: everything strictly before a cut is learnt from; the targets are the items that a user with a past met for
the first time in the window from the cut on, among the items that existed before it. Leave-one-out: each user's last
new item is the target and the one before is validation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from feature_repo.errors import LongtailError
from training.examples.moments import Moments, moments_at
from training.log.engagements import Engagements
from training.settings import TrainingSettings

SplitName = Literal["temporal", "leave-one-out"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """Users at moments, and what each of them met next."""

    name: str
    cut_us: int  # the end of what may be learnt from
    fit: Engagements  # what may be learnt from
    history: Engagements  # what a user's history is read from
    moments: Moments  # positions in `history`
    target_row: np.ndarray  # int64 [targets], row of `moments`
    target_item: np.ndarray  # int32 [targets], item code
    target_time_us: np.ndarray  # int64 [targets]

    def gap_us(self) -> np.ndarray:
        """From each user's last event to the first target: int64 [moments]."""
        first = np.full(len(self.moments), np.iinfo(np.int64).max)
        np.minimum.at(first, self.target_row, self.target_time_us)
        return np.asarray(first - self.history.time_us[np.maximum(self.moments.end - 1, 0)])


@dataclass(frozen=True, kw_only=True)
class Split:
    """Validation to tune on, and a test to look at once."""

    name: SplitName
    validation: Question
    test: Question


def split(log: Engagements, name: SplitName, settings: TrainingSettings) -> Split:
    """Splits a log. Raises LongtailError that says what is missing when nothing could be learnt or asked."""
    _check_size(log)
    made = temporal(log, settings) if name == "temporal" else leave_one_out(log)
    for question in (made.validation, made.test):
        if not len(question.moments):
            raise LongtailError(
                f"the {name} split leaves no user to ask in its {question.name} part: it needs users with events "
                f"before the cut who met an item afterwards that is new to them and existed before; the log has "
                f"{len(log.user_ids)} users and {len(log)} engagements, {int(log.first_of_each_item().sum())} of them "
                f"with an item new to the user, from {_day(log.time_us.min())} to {_day(log.time_us.max())}; "
                "import a longer log, or move training.validation_from and training.test_from"
            )
    return made


def _check_size(log: Engagements) -> None:
    for count, what in ((len(log.user_ids), "user"), (len(log.item_ids), "item")):
        if count < 2:
            raise LongtailError(
                f"the event log has {count} {what}{'' if count == 1 else 's'} with an engagement; training needs "
                f"at least 2 users and 2 items, and users who come back; import more with `longtail data import`"
            )
    if log.time_us.min() == log.time_us.max():
        raise LongtailError(
            f"all {len(log)} engagements have the same time, {_day(log.time_us.min())}: there is no before and after "
            "to learn from; import events with the times they happened"
        )


def temporal(log: Engagements, settings: TrainingSettings) -> Split:
    """Validation and test are the last windows of the log, by quantiles of event times."""
    if settings.validation_from >= settings.test_from:
        raise LongtailError(
            f"training.validation_from = {settings.validation_from} must be below training.test_from = "
            f"{settings.test_from}"
        )
    first, second = (int(np.quantile(log.time_us, q)) for q in (settings.validation_from, settings.test_from))
    end = int(log.time_us.max()) + 1
    return Split(
        name="temporal",
        validation=_window(log, "validation", first, second),
        test=_window(log, "test", second, end),
    )


def _window(log: Engagements, name: str, cut_us: int, end_us: int) -> Question:
    past = log.before(cut_us)
    has_past = np.bincount(past.user, minlength=len(log.user_ids)) > 0
    existed = np.bincount(past.item, minlength=len(log.item_ids)) > 0
    is_target = log.first_of_each_item() & (log.time_us >= cut_us) & (log.time_us < end_us)
    targets = log.where(is_target & has_past[log.user] & existed[log.item])
    users, target_row = np.unique(targets.user, return_inverse=True)
    return Question(
        name=name,
        cut_us=cut_us,
        fit=past,
        history=past,
        moments=moments_at(past, users, cut_us),
        target_row=target_row,
        target_item=targets.item,
        target_time_us=targets.time_us,
    )


def whole(log: Engagements) -> Question:
    """All of the log may be learnt from, and nobody is asked anything."""
    end = int(log.time_us.max()) + 1
    return _window(log, "whole", end, end)


def leave_one_out(log: Engagements) -> Split:
    """Of each user's distinct items in order of first meeting, the last is test, the one before validation."""
    new = log.where(log.first_of_each_item())
    from_last = new.starts[new.user + 1] - np.arange(len(new))  # 1 for the user's last item
    count = np.diff(new.starts)[new.user]
    train = new.where((from_last > 2) | (count < 3))
    with_validation = new.where((from_last > 1) | (count < 3))
    return Split(
        name="leave-one-out",
        validation=_last(train, train, new.where((from_last == 2) & (count >= 3)), "validation"),
        test=_last(train, with_validation, new.where((from_last == 1) & (count >= 3)), "test"),
    )


def _last(fit: Engagements, history: Engagements, targets: Engagements, name: str) -> Question:
    existed = np.bincount(fit.item, minlength=len(fit.item_ids)) > 0
    targets = targets.where(existed[targets.item])
    starts = history.starts
    moments = Moments(
        user=targets.user, start=starts[targets.user], end=starts[targets.user + 1], as_of_us=targets.time_us
    )
    return Question(
        name=name,
        cut_us=int(fit.time_us.max()) + 1 if len(fit) else 0,
        fit=fit,
        history=history,
        moments=moments,
        target_row=np.arange(len(targets)),
        target_item=targets.item,
        target_time_us=targets.time_us,
    )


COUNTING_FROM: Final = 0.95  # of users who begin at the very same time


def times_note(log: Engagements) -> str:
    """What to do where times seem to be places in each user's order, counted from the first; empty where not."""
    first_us = log.time_us[log.starts[:-1]]
    share = float((first_us == first_us.min()).mean())
    if share < COUNTING_FROM or first_us.min() == log.time_us.max():
        return ""
    return (
        f"{share:.0%} of the users have their first event at the same time, {_day(first_us.min())}: where times are "
        "places in an order, validation and test ask long histories alone; count back from each user's last event "
        "instead, see docs/data.md"
    )


def _day(time_us: int) -> str:
    return str(np.datetime64(int(time_us), "us").astype("datetime64[D]"))
