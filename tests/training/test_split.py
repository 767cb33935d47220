"""Whom a split asks, and what is said where it asks nobody or not those who matter."""

from __future__ import annotations

import pytest

from feature_repo.errors import LongtailError
from training.examples.split import split, times_note
from training.log.engagements import Engagements, from_rows
from training.settings import TrainingSettings

DAY_S = 86_400.0


def places(lengths: list[int], *, back: bool = False) -> Engagements:
    """A log of order only, a day a step: counted from each user's first event on, or back from the last."""
    return from_rows(
        [
            (f"user-{user}", f"item-{place}", "view", DAY_S * (1000 + place - (length if back else 0)))
            for user, length in enumerate(lengths)
            for place in range(length)
        ]
    )


def test_places_counted_from_the_first_event_are_noted() -> None:
    lengths = [4] * 8 + [9, 20]
    assert "count back from each user's last event" in times_note(places(lengths))
    assert not times_note(places(lengths, back=True))


def test_where_nobody_meets_anything_new_that_is_what_is_said() -> None:
    log = from_rows(
        [(f"user-{user}", f"item-{user % 2}", "view", DAY_S * day) for user in range(4) for day in range(5)]
    )
    with pytest.raises(LongtailError, match="20 engagements, 4 of them with an item new to the user"):
        split(log, "temporal", TrainingSettings())
