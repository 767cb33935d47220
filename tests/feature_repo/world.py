"""Small made-up events and hypothesis strategies that the tests of this package share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from feature_repo.events import Event

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def event(event_id: str = "e1", **changes: Any) -> Event:
    """A view of item i1 by user u1 a day before NOW, with changes."""
    fields: dict[str, Any] = {
        "event_id": event_id,
        "user_id": "u1",
        "item_id": "i1",
        "event_type": "view",
        "event_time": NOW - timedelta(days=1),
    }
    return Event(**(fields | changes))


@st.composite
def logs(draw: st.DrawFn, *, max_size: int = 40, users: int = 3) -> list[Event]:
    """Events of a few users, items and types up to NOW, many at equal times; ids differ."""
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(1, users),
                st.integers(1, 5),
                st.sampled_from(["view", "purchase", "exposure", "return"]),
                st.integers(0, 400),
                st.sampled_from([0, 1, 999_999]),
            ),
            max_size=max_size,
        )
    )
    return [
        Event(
            event_id=f"e{number}",
            user_id=f"u{user}",
            item_id=f"i{item}",
            event_type=event_type,
            event_time=NOW - timedelta(hours=6 * quarter_days, microseconds=microseconds),
        )
        for number, (user, item, event_type, quarter_days, microseconds) in enumerate(rows)
    ]
