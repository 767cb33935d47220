"""Feedback → the online store, so that the next request knows what the user just did.

The worker reads the event log, remembers what it must (`stream.state`) and writes the streamed columns of the rows that
changed. An event counts once however often it is delivered, in any order; a row that the store did not take waits.
"""

from __future__ import annotations

import fcntl
import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from feature_repo.contract import ITEM_STATS, USER_ACTIVITY, USER_BEHAVIOR, USER_CONTACTS
from feature_repo.errors import LongtailError
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog, Position
from feature_repo.online.streamed import STREAMED
from feature_repo.settings import FeatureSettings
from feature_repo.stream.state import StreamState, made_from, memory_file

if TYPE_CHECKING:
    from feature_repo.online.rows import OnlineStore

POLL_S: Final = 0.005
RETRY_S: Final = 1.0
BATCH_EVENTS: Final = 500

_log = logging.getLogger(__name__)


MakeMemory = Callable[[StateDir, FeatureSettings, str], Position]
"""(state, settings, what it is made from) → the place in the log up to which the memory knows it."""


def make_memory(state: StateDir, settings: FeatureSettings, made_from: str) -> Position:
    """What the worker remembers, anew from the whole log. Raises LongtailError."""
    from feature_repo.stream.seed import seeded

    memory = StreamState(memory_file(state))
    try:
        with seeded(state, settings) as seed:
            memory.replace(made_from, seed)
            return seed.position
    finally:
        memory.close()


def open_worker(state: StateDir, settings: FeatureSettings, *, make: MakeMemory = make_memory) -> FeedbackWorker:
    """The worker of this installation."""
    from feature_repo.online.rows import open_online

    return FeedbackWorker(state, settings, open_online(state, settings), make=make)


class FeedbackWorker:
    """One works at a time per state directory; others stand by and take over when it ends."""

    def __init__(
        self, state: StateDir, settings: FeatureSettings, online: OnlineStore, *, make: MakeMemory = make_memory
    ) -> None:
        self._directory = state
        self._settings = settings
        self._online = online
        self._events = EventLog(state.events)
        self._make = make
        self._state = StreamState(memory_file(state))
        self._lead = _Lead(state.feast / "feedback-worker.lock")
        self._has_pending = True

    def step(self, *, now: datetime) -> int:
        """Applies the next events and returns how many it read; 0 means that it is up to date, or stands by."""
        if not self._lead.taken():
            return 0
        origin = made_from(self._events.import_files(), self._settings)
        position = self._state.position(origin) or self._seed(origin)
        if self._has_pending:  # what a broken step left
            self._write_pending(now)
        events, after = self._events.read_after(position, limit=BATCH_EVENTS)
        if after == position:
            return 0
        self._has_pending = True
        self._state.apply(events, after, self._settings)
        self._write_pending(now)
        return max(1, len(events))

    def run(self, stop: threading.Event, *, on_applied: Callable[[int], None] = lambda _count: None) -> None:
        """Steps until `stop` is set. While a store does not answer it tries again; nothing is skipped."""
        while not stop.is_set():
            try:
                applied = self.step(now=datetime.now(UTC))
            except (LongtailError, OSError) as error:
                _log.warning("feedback waits: %s", error)
                stop.wait(RETRY_S)
                continue
            on_applied(applied)
            if applied == 0:
                stop.wait(POLL_S)

    def close(self) -> None:
        """Lets another worker take over."""
        self._state.close()
        self._online.close()
        self._lead.release()

    def _seed(self, origin: str) -> Position:
        _log.info("reading the whole event log once, for it is new or its imports changed")
        position = self._make(self._directory, self._settings, origin)
        self._has_pending = True
        return position

    def _write_pending(self, now: datetime) -> None:
        # the next whole second: later than any build that did not see these events
        as_of = now.replace(microsecond=0) + timedelta(seconds=1)
        while user_ids := self._state.pending("user_id", BATCH_EVENTS):
            self._write_users(user_ids, as_of)
            self._state.written("user_id", user_ids)
        while item_ids := self._state.pending("item_id", BATCH_EVENTS):
            self._write_items(item_ids, as_of)
            self._state.written("item_id", item_ids)
        self._has_pending = False

    def _write_users(self, user_ids: Sequence[str], as_of: datetime) -> None:
        from feature_repo.online.rows import Row, as_batch

        users, as_of_s = self._state.users(user_ids), int(as_of.timestamp())
        behaviors, activities, contacts = [], [], []
        for user_id, user in users.items():
            behaviors.append(Row(entity_id=user_id, event_time=as_of, values=user.behavior(as_of_s)))
            activity = user.activity(as_of_s, self._settings)
            activities.append(Row(entity_id=user_id, event_time=as_of, values=activity))
            contacts.append(Row(entity_id=user_id, event_time=as_of, values=user.contact(as_of_s)))
        for view, rows in ((USER_BEHAVIOR, behaviors), (USER_ACTIVITY, activities), (USER_CONTACTS, contacts)):
            self._online.stream(view, as_batch(view, rows, STREAMED[view.name]))

    def _write_items(self, item_ids: Sequence[str], as_of: datetime) -> None:
        from feature_repo.online.rows import Row, as_batch

        rows = [
            Row(
                entity_id=item.item_id,
                event_time=as_of,
                values={
                    "exposures": item.exposures,
                    "engagements": item.engagements,
                    "first_seen_unix_s": item.first_seen_unix_s,
                },
            )
            for item in self._state.items(item_ids)
        ]
        self._online.stream(ITEM_STATS, as_batch(ITEM_STATS, rows, STREAMED[ITEM_STATS.name]))


class _Lead:
    """A file lock that is tried, never waited for."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._held: IO[bytes] | None = None

    def taken(self) -> bool:
        if self._held is not None:
            return True
        self._file.parent.mkdir(parents=True, exist_ok=True)
        held = self._file.open("ab")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            held.close()
            return False
        self._held = held
        return True

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
        self._held = None
