"""Wire → domain, pure. Whatever is wrong with a request is found here, all of it, once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, cast

from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.events import EVENT_TYPE_PATTERN, MAX_EVENT_ID_BYTES, MAX_FUTURE, MAX_ID_BYTES, Event
from longtail.activation.v1 import activation_pb2 as pb
from longtail.activation.v1 import feedback_pb2, privacy_pb2
from serving.gateway.domain import (
    Behavior,
    ItemId,
    Objective,
    Priority,
    Query,
    Source,
    UserId,
)
from serving.gateway.errors import InvalidRequestError, Violation

MAX_CANDIDATES: Final = 1000
MAX_EXCLUDED: Final = 1000
MAX_HISTORY: Final = 500
MAX_EVENTS: Final = 1000
MAX_LIMIT: Final = 200
DEFAULT_LIMIT: Final = 10
MAX_KEY_BYTES: Final = 128
MAX_CHANNEL_BYTES: Final = 64
MAX_VIOLATIONS: Final = 10  # they travel in a trailer, whose size clients limit to 8 KiB
MAX_BYTES_OF_A_CHARACTER: Final = 4  # in UTF-8
LAST_SECOND: Final = 253_402_300_799  # of the year 9999, where Timestamp ends

_EVENT_TYPE: Final = re.compile(EVENT_TYPE_PATTERN)

OBJECTIVES: Final = {
    pb.OBJECTIVE_UNSPECIFIED: Objective.AUTO,
    pb.OBJECTIVE_AUTO: Objective.AUTO,
    pb.OBJECTIVE_ACTIVATE: Objective.ACTIVATE,
    pb.OBJECTIVE_RETAIN: Objective.RETAIN,
    pb.OBJECTIVE_EXPLORE: Objective.EXPLORE,
}
PRIORITIES: Final = {
    pb.PRIORITY_UNSPECIFIED: Priority.INTERACTIVE,
    pb.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    pb.PRIORITY_BATCH: Priority.BATCH,
}
SOURCES: Final = {
    pb.CANDIDATE_SOURCE_RETRIEVAL: Source.RETRIEVAL,
    pb.CANDIDATE_SOURCE_POPULAR: Source.POPULAR,
    pb.CANDIDATE_SOURCE_FRESH: Source.FRESH,
}


class Checks:
    """Collects violations, so that a caller learns all of them at once."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(Violation(field=field, description=description))

    def close(self) -> None:
        if self.violations:
            raise InvalidRequestError(self.violations)

    def size(self, field: str, text: str, *, most: int, least: int = 0) -> None:
        size = len(text.encode())
        if not least <= size <= most:
            self.add(field, f"has {size} bytes; {least} to {most} are allowed")

    def count(self, field: str, given: int, *, most: int, advice: str) -> bool:
        if given > most:
            self.add(field, f"{given} were given; at most {most} are allowed; {advice}")
        return given <= most

    def ids(self, field: str, item_ids: Sequence[str]) -> None:
        if item_ids and all(item_ids) and max(map(len, item_ids)) * MAX_BYTES_OF_A_CHARACTER <= MAX_ID_BYTES:
            return
        for place, item_id in enumerate(item_ids):
            self.size(f"{field}[{place}]", item_id, least=1, most=MAX_ID_BYTES)

    def time(self, field: str, time: Timestamp, *, now_unix_s: float) -> float:
        unix_s = float(time.seconds + time.nanos / 1e9)
        if not 0 <= time.nanos < 1_000_000_000:
            self.add(field, f"nanos is {time.nanos}; 0 to 999999999 are allowed")
        elif not 0 <= time.seconds <= LAST_SECOND:
            self.add(field, f"is {time.seconds} s since 1970; give seconds, from 1970 on")
        elif unix_s > now_unix_s + MAX_FUTURE.total_seconds():
            self.add(field, f"{_iso(unix_s)} is over a day after now ({_iso(now_unix_s)}); is the clock right?")
        return unix_s


def decode_query(request: pb.RankItemsRequest, *, now_unix_s: float) -> Query:
    """Raises InvalidRequestError with every violation."""
    checks = Checks()
    checks.size("user_id", request.user_id, most=MAX_ID_BYTES)
    if not request.user_id and not request.history:
        checks.add("user_id", "is empty; give 1 to 256 bytes, or `history` to rank for an anonymous user")
    if checks.count(
        "candidate_item_ids", len(request.candidate_item_ids), most=MAX_CANDIDATES, advice="send several calls"
    ):
        checks.ids("candidate_item_ids", request.candidate_item_ids)
    if checks.count(
        "exclude_item_ids", len(request.exclude_item_ids), most=MAX_EXCLUDED, advice="leave out the oldest"
    ):
        checks.ids("exclude_item_ids", request.exclude_item_ids)
    checks.size("surface", request.surface, most=MAX_EVENT_ID_BYTES)
    checks.size("channel", request.channel, most=MAX_CHANNEL_BYTES)
    checks.size("idempotency_key", request.idempotency_key, most=MAX_KEY_BYTES)
    if request.HasField("limit") and not 1 <= request.limit <= MAX_LIMIT:
        checks.add("limit", f"is {request.limit}; 1 to {MAX_LIMIT} are allowed, unset means {DEFAULT_LIMIT}")
    for field, known in (("objective", OBJECTIVES), ("priority", PRIORITIES)):
        if (value := getattr(request, field)) not in known:
            checks.add(field, f"is {value}, which this version does not know; {len(known)} values are known, from 0")
    for place, source in enumerate(request.sources):
        if source not in SOURCES:
            checks.add(f"sources[{place}]", f"is {source}; name RETRIEVAL, POPULAR or FRESH, or leave sources empty")
    replayed = checks.time("now", request.now, now_unix_s=now_unix_s) if request.HasField("now") else None
    history = _decode_history(request.history, checks, now_unix_s=now_unix_s)
    checks.close()
    return Query(
        user_id=UserId(request.user_id),
        history=history if request.history else None,
        candidate_item_ids=cast(tuple[ItemId, ...], tuple(request.candidate_item_ids)),
        sources=tuple(dict.fromkeys(SOURCES[source] for source in request.sources)),
        limit=request.limit if request.HasField("limit") else DEFAULT_LIMIT,
        surface=request.surface,
        channel=request.channel,
        objective=OBJECTIVES[request.objective],
        exclude_item_ids=frozenset(ItemId(item_id) for item_id in request.exclude_item_ids),
        require_full=request.require_full,
        explain=request.explain,
        now_unix_s=replayed,
        idempotency_key=request.idempotency_key,
        priority=PRIORITIES[request.priority],
    )


def decode_decision_id(request: pb.ExplainDecisionRequest) -> str:
    """Raises InvalidRequestError."""
    size = len(request.decision_id.encode())
    if not 1 <= size <= MAX_KEY_BYTES:
        raise InvalidRequestError(
            [Violation(field="decision_id", description=f"must have 1 to {MAX_KEY_BYTES} bytes, has {size}")]
        )
    return request.decision_id


def decode_state_query(request: pb.GetUserStateRequest, *, now_unix_s: float) -> Query:
    checks = Checks()
    checks.size("user_id", request.user_id, least=1, most=MAX_ID_BYTES)
    replayed = checks.time("now", request.now, now_unix_s=now_unix_s) if request.HasField("now") else None
    checks.close()
    return Query(user_id=UserId(request.user_id), now_unix_s=replayed)


def _decode_history(history: Sequence[pb.Behavior], checks: Checks, *, now_unix_s: float) -> tuple[Behavior, ...]:
    if not checks.count("history", len(history), most=MAX_HISTORY, advice="send the newest"):
        return ()
    behaviors = []
    for place, behavior in enumerate(history):
        field = f"history[{place}]"
        checks.size(f"{field}.item_id", behavior.item_id, least=1, most=MAX_ID_BYTES)
        event_type = behavior.event_type or "view"
        if not _EVENT_TYPE.fullmatch(event_type):
            checks.add(f"{field}.event_type", f"is {event_type[:40]!r}; give lower_snake_case of at most 64 bytes")
        if not behavior.HasField("event_time"):
            checks.add(f"{field}.event_time", "is unset; give the time of the behaviour")
        unix_s = checks.time(f"{field}.event_time", behavior.event_time, now_unix_s=now_unix_s)
        behaviors.append(Behavior(item_id=ItemId(behavior.item_id), event_type=event_type, unix_s=unix_s))
    return tuple(behaviors)


def decode_forgotten(request: privacy_pb2.ForgetUserRequest) -> str:
    checks = Checks()
    checks.size("user_id", request.user_id, least=1, most=MAX_ID_BYTES)
    checks.close()
    return request.user_id


def check_event_count(request: feedback_pb2.RecordEventsRequest) -> None:
    checks = Checks()
    if not request.events:
        checks.add("events", f"is empty; give 1 to {MAX_EVENTS}")
    checks.count("events", len(request.events), most=MAX_EVENTS, advice="send several calls")
    checks.close()


def decode_event(event: feedback_pb2.Event, *, now: datetime) -> Event | str:
    """The event, or why its time is no time; everything else is for `feature_repo.events.refusal` to say."""
    time = now
    if event.HasField("event_time"):
        try:
            time = event.event_time.ToDatetime(tzinfo=UTC)
        except (ValueError, OverflowError):
            return f"event_time of {event.event_time.seconds} s is no time; give seconds since 1970"
    return Event(
        event_id=event.event_id,
        user_id=event.user_id,
        item_id=event.item_id,
        event_type=event.event_type,
        event_time=time,
        value=event.value if event.HasField("value") else None,
        surface=event.surface,
        decision_id=event.decision_id,
    )


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")
