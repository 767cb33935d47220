"""Events on their way between machines: gateways append to a stream, the feedback worker takes them into the event log.

A stream delivers at least once. The log takes an event_id once, so taking from the stream is: append, then acknowledge.
On one machine there is no stream: gateways append to the log itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from feature_repo.errors import EventLogError
from feature_repo.events import Event, refusal
from feature_repo.layout import StateDir
from feature_repo.log.event_lines import decode_event
from feature_repo.log.event_log import EventLog
from feature_repo.settings import FeatureSettings

BATCH_EVENTS: Final = 1_000
APPEND_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.2  # how long a read waits for the first event

_log = logging.getLogger(__name__)


class EventSink(Protocol):
    """Where recorded events go; they are durable when it returns. Raises EventLogError, then none is acknowledged."""

    def append(self, events: Sequence[Event]) -> list[bool]:
        """True for each event written; a stream cannot tell duplicates and answers True for them."""
        ...


class EventSource(Protocol):
    """What a stream delivers to one of its consumers. Raises EventLogError."""

    def read(self, *, limit: int, timeout_s: float) -> list[bytes]:
        """Messages not yet acknowledged, those of an earlier run first; none within `timeout_s` is none."""
        ...

    def acknowledge(self) -> None:
        """All that was read is in the log."""
        ...

    def close(self) -> None: ...


def open_sink(state: StateDir, settings: FeatureSettings) -> EventSink:
    """Where a gateway of these settings appends."""
    if settings.event_stream == "redis":
        from feature_repo.log.redis_stream import RedisSink

        return RedisSink(settings.redis_url, settings.stream_name)
    if settings.event_stream == "kafka":
        from feature_repo.log.kafka_stream import KafkaSink

        return KafkaSink(settings.kafka_servers, settings.stream_name, settings.kafka_options)
    return EventLog(state.events)


def open_source(settings: FeatureSettings) -> EventSource | None:
    """What the feedback worker reads; None when gateways append to the log themselves."""
    if settings.event_stream == "redis":
        from feature_repo.log.redis_stream import RedisSource

        return RedisSource(settings.redis_url, settings.stream_name)
    if settings.event_stream == "kafka":
        from feature_repo.log.kafka_stream import KafkaSource

        return KafkaSource(settings.kafka_servers, settings.stream_name, settings.kafka_options)
    return None


@dataclass(frozen=True, kw_only=True)
class Taken:
    """`read` = `written` + `known` (duplicates, and events of erased users) + `refused` (in quarantine)."""

    read: int
    written: int
    known: int
    refused: int


class Intake:
    """From a stream into the event log."""

    def __init__(self, source: EventSource, log: EventLog, quarantine: Path) -> None:
        self._source = source
        self._log = log
        self._quarantine = quarantine / "stream.jsonl"

    def step(self, *, now: datetime, timeout_s: float) -> Taken:
        """Takes one batch. What fails is delivered again."""
        messages = self._source.read(limit=BATCH_EVENTS, timeout_s=timeout_s)
        events, refused = [], []
        for message in messages:
            event = decode_event(message)
            reason = "it is no event" if event is None else refusal(event, now=now)
            if event is not None and reason is None:
                events.append(event)
            else:
                refused.append({"reason": reason, "message": message.decode(errors="replace")})
        if refused:
            self._put_aside(refused)
        written = sum(self._log.append(events)) if events else 0
        if messages:
            self._source.acknowledge()
        return Taken(read=len(messages), written=written, known=len(events) - written, refused=len(refused))

    def _put_aside(self, refused: Sequence[dict[str, Any]]) -> None:
        _log.warning("%d messages of the stream are no events; see %s", len(refused), self._quarantine)
        try:
            self._quarantine.parent.mkdir(parents=True, exist_ok=True)
            with self._quarantine.open("a") as file:
                file.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in refused)
        except OSError as error:
            raise EventLogError(f"cannot write {self._quarantine}: {error}") from error
