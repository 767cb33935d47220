"""Events through a Kafka topic. The key is the user: one partition, and so one worker, has all of a user's events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from feature_repo.errors import EventLogError, LongtailError
from feature_repo.events import Event
from feature_repo.log.event_lines import encode_event
from feature_repo.log.event_streams import APPEND_TIMEOUT_S

try:
    from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
except ModuleNotFoundError as error:
    raise LongtailError("features.event_stream is kafka, which needs: pip install 'longtail[kafka]'") from error

GROUP: Final = "longtail"


class KafkaSink:
    """Acknowledged by all replicas in sync."""

    def __init__(self, servers: str, topic: str, options: Mapping[str, str] | None = None) -> None:
        ours = {"bootstrap.servers": servers, "acks": "all", "enable.idempotence": True, "linger.ms": 1}
        self._producer = Producer({**ours, "message.timeout.ms": int(APPEND_TIMEOUT_S * 1000), **(options or {})})
        self._topic = topic

    def append(self, events: Sequence[Event]) -> list[bool]:
        failures: list[str] = []

        def delivered(error: Any, _message: Any) -> None:
            if error is not None:
                failures.append(str(error))

        try:
            for event in events:
                self._producer.produce(
                    self._topic, encode_event(event), key=event.user_id.encode(), on_delivery=delivered
                )
            left = self._producer.flush(APPEND_TIMEOUT_S + 1)
        except (KafkaException, BufferError) as error:
            raise EventLogError(f"the topic {self._topic} took no events: {error}") from error
        if left or failures:
            why = failures[0] if failures else "it did not answer in time"
            raise EventLogError(f"the topic {self._topic} did not take all events: {why}; retry, duplicates are known")
        return [True] * len(events)


class KafkaSource:
    """A consumer of the group. Offsets are committed when their events are in the log, never before."""

    def __init__(self, servers: str, topic: str, options: Mapping[str, str] | None = None) -> None:
        ours = {
            "bootstrap.servers": servers,
            "group.id": GROUP,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
        }
        self._consumer = Consumer({**ours, **(options or {})})
        self._consumer.subscribe([topic])
        self._topic = topic
        self._places: dict[int, tuple[int, int]] = {}  # partition → first offset read and the one after the last

    def read(self, *, limit: int, timeout_s: float) -> list[bytes]:
        try:
            for place, (first, _) in self._places.items():  # a batch that did not get into the log comes again
                self._consumer.seek(TopicPartition(self._topic, place, first))
            self._places = {}
            messages = self._consumer.consume(limit, timeout_s)
        except KafkaException as error:
            raise EventLogError(f"the topic {self._topic} gives no events: {error}") from error
        good = [message for message in messages if message.error() is None]
        if messages and not good:
            raise EventLogError(f"the topic {self._topic} gives no events: {messages[0].error()}")
        for message in good:
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            first, _ = self._places.get(partition, (offset, offset))
            self._places[partition] = (first, offset + 1)
        return [message.value() or b"" for message in good]

    def acknowledge(self) -> None:
        offsets = [TopicPartition(self._topic, partition, after) for partition, (_, after) in self._places.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            raise EventLogError(f"the topic {self._topic} took no acknowledgement: {error}") from error
        self._places = {}

    def close(self) -> None:
        self._consumer.close()
