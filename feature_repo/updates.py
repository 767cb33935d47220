"""Feedback → the online `user_behavior`, so that the next request knows what the user just did.

What arrives twice changes nothing the second time, and the order of arrival does not matter: a row is a function of
the set of engagements in it. So the follower may read an event again after a crash.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from feature_repo.contract import HISTORY_LENGTH, USER_BEHAVIOR, FeatureValue
from feature_repo.errors import LongtailError
from feature_repo.event_log import START, EventLog, Position
from feature_repo.events import EPOCH, Event
from feature_repo.settings import FeatureSettings

if TYPE_CHECKING:
    from feast import FeatureStore

    from feature_repo.online import Row

POLL_S: Final = 0.1
RETRY_S: Final = 1.0
BATCH_EVENTS: Final = 1000
DAY_S: Final = 86_400.0

_log = logging.getLogger(__name__)

_Entry = tuple[int, str, str]  # unix_s, item_id, event_type


def with_events(
    row: Mapping[str, FeatureValue], events: Sequence[Event], settings: FeatureSettings, *, as_of: datetime
) -> dict[str, FeatureValue]:
    """The user's `user_behavior` row after `events`, at `as_of`; `row` is empty for a user without one.

    History and counts are what the build gives for the same events, as long as the row's history held them.
    Category affinities stay the row's until the next build.
    """
    engaged = {_entry(event) for event in events if settings.weight(event.event_type) > 0}
    entries = sorted(engaged | set(_entries(row)), key=lambda entry: (-entry[0], entry[1], entry[2]))[:HISTORY_LENGTH]
    types = sorted({event_type for _, _, event_type in entries})
    return {
        **USER_BEHAVIOR.defaults(),
        **row,
        "history_item_ids": [item_id for _, item_id, _ in entries],
        "history_event_types": [event_type for _, _, event_type in entries],
        "history_unix_s": [unix_s for unix_s, _, _ in entries],
        "count_event_types": types,
        **{f"counts_{days}d": _counts(entries, types, as_of, days) for days in (1, 7, 30)},
    }


class UserBehaviorWriter:
    """Brings rows of the online store up to date. `store` is the process's one FeatureStore."""

    def __init__(self, store: FeatureStore, settings: FeatureSettings) -> None:
        self._store = store
        self._settings = settings

    def write(self, events: Sequence[Event], *, now: datetime) -> int:
        """Applies the events to their users' rows and returns how many rows changed. Raises FeatureStoreError."""
        from feature_repo.online import read_rows, write_lock, write_rows

        by_user: dict[str, list[Event]] = {}
        for event in events:
            if self._settings.weight(event.event_type) > 0:
                by_user.setdefault(event.user_id, []).append(event)
        if not by_user:
            return 0
        with write_lock(self._store):
            current = read_rows(self._store, USER_BEHAVIOR, list(by_user))
            changed = [
                changed
                for row, (user_id, theirs) in zip(current, by_user.items(), strict=True)
                if (changed := self._changed(row, user_id, theirs, now)) is not None
            ]
            if changed:
                write_rows(self._store, USER_BEHAVIOR, changed)
        return len(changed)

    def _changed(self, row: Row | None, user_id: str, events: Sequence[Event], now: datetime) -> Row | None:
        from feature_repo.online import Row

        before: Mapping[str, FeatureValue] = {} if row is None else row.values
        # the next whole second: later than any build that did not see these events
        as_of = now.replace(microsecond=0) + timedelta(seconds=1)
        as_of = as_of if row is None else max(as_of, row.event_time)
        values = with_events(before, events, self._settings, as_of=as_of)
        if _entries(values) == _entries(before):
            return None
        return Row(entity_id=user_id, event_time=as_of, values=values)


class FeedbackFollower:
    """Follows the event log and applies what it reads; the place is kept on disk.

    Run one per online store. After a crash it reads the last events again, which changes nothing.
    """

    def __init__(self, log: EventLog, writer: UserBehaviorWriter, cursor_file: Path) -> None:
        self._log = log
        self._writer = writer
        self._cursor_file = cursor_file
        self._position = _read_cursor(cursor_file)

    def step(self, *, now: datetime) -> int:
        """Applies the next events and returns how many it read; 0 means that it is up to date."""
        events, position = self._log.read_after(self._position, limit=BATCH_EVENTS)
        if position == self._position:
            return 0
        self._writer.write(events, now=now)
        self._position = position
        _write_cursor(self._cursor_file, position)
        return len(events)

    def run(self, stop: threading.Event) -> None:
        """Steps until `stop` is set. While the store does not answer it tries again; nothing is skipped."""
        while not stop.is_set():
            try:
                if self.step(now=datetime.now(UTC)) == 0:
                    stop.wait(POLL_S)
            except (LongtailError, OSError) as error:
                _log.warning("feedback waits for the online store: %s", error)
                stop.wait(RETRY_S)


def _entry(event: Event) -> _Entry:
    return (event.event_time - EPOCH) // timedelta(seconds=1), event.item_id, event.event_type


def _entries(row: Mapping[str, FeatureValue]) -> list[_Entry]:
    columns: list[Any] = [row.get(name) or [] for name in ("history_unix_s", "history_item_ids", "history_event_types")]
    return list(zip(*columns, strict=True))


def _counts(entries: Sequence[_Entry], types: Sequence[str], as_of: datetime, days: int) -> list[int]:
    now_unix_s = as_of.timestamp()
    recent = [event_type for unix_s, _, event_type in entries if now_unix_s - unix_s <= days * DAY_S]
    return [recent.count(event_type) for event_type in types]


def _read_cursor(file: Path) -> Position:
    try:
        segment, offset = json.loads(file.read_text())
        return Position(int(segment), int(offset))
    except FileNotFoundError:
        return START
    except (ValueError, TypeError):
        _log.warning("%s is damaged; the follower starts from the first event, which is safe", file)
        return START


def _write_cursor(file: Path, position: Position) -> None:
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_text(json.dumps(position))
    unfinished.replace(file)
