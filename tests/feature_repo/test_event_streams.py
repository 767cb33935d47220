"""Redis streams and Kafka behind one port: at least once in, once in the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from confluent_kafka import Producer

from feature_repo.errors import EventLogError
from feature_repo.layout import StateDir
from feature_repo.log.event_lines import encode_event
from feature_repo.log.event_log import EventLog
from feature_repo.log.event_streams import EventSink, EventSource, Intake, Taken, open_sink, open_source
from feature_repo.log.kafka_stream import KafkaSink, KafkaSource
from feature_repo.log.redis_stream import RedisSink, RedisSource
from feature_repo.settings import FeatureSettings
from tests.feature_repo.world import NOW, event

WAIT_S = 0.3
STREAM = "events"


@dataclass(frozen=True, kw_only=True)
class Stream:
    sink: EventSink
    connect: Callable[[], EventSource]
    put: Callable[[bytes], object]


@pytest.fixture(scope="session")
def kafka_servers() -> Iterator[str]:
    """librdkafka's own brokers, which live as long as this client."""
    host = Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1})
    brokers = host.list_topics(timeout=10).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    host.flush(1)


@pytest.fixture(params=["redis", "kafka"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> Stream:
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        client = redis.Redis.from_url(url)
        client.flushall()
        return Stream(
            sink=RedisSink(url, STREAM),
            connect=lambda: RedisSource(url, STREAM, abandoned_ms=0),
            put=lambda message: client.xadd(STREAM, {b"event": message}),
        )
    servers, topic = request.getfixturevalue("kafka_servers"), tmp_path.name

    def put(message: bytes) -> None:
        producer = Producer({"bootstrap.servers": servers})
        producer.produce(topic, message)
        producer.flush(5)

    return Stream(
        sink=KafkaSink(servers, topic),
        connect=lambda: KafkaSource(servers, topic, {"session.timeout.ms": "6000"}),
        put=put,
    )


def take(intake: Intake, count: int) -> Taken:
    """Steps until so many messages were read: joining a group takes Kafka a moment."""
    total = Taken(read=0, written=0, known=0, refused=0)
    for _ in range(100):
        step = intake.step(now=NOW, timeout_s=WAIT_S)
        total = Taken(
            read=total.read + step.read,
            written=total.written + step.written,
            known=total.known + step.known,
            refused=total.refused + step.refused,
        )
        if total.read >= count:
            return total
    raise AssertionError(f"only {total} came")


def test_an_event_is_once_in_the_log_and_what_is_no_event_is_put_aside(stream: Stream, tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events")
    given = [event("a", user_id="ü", value=2.5), event("b"), event("a", user_id="ü", value=2.5)]
    assert stream.sink.append(given) == [True, True, True]
    stream.put(b"{no event")
    stream.put(encode_event(event("c", user_id="")))
    source = stream.connect()
    intake = Intake(source, log, tmp_path / "quarantine")
    assert take(intake, 5) == Taken(read=5, written=2, known=1, refused=2)
    assert intake.step(now=NOW, timeout_s=0.05).read == 0
    source.close()
    assert {each.event_id: each for each in log.read_after()[0]} == {"a": given[0], "b": given[1]}
    assert len((tmp_path / "quarantine" / "stream.jsonl").read_text().splitlines()) == 2


def test_what_did_not_get_into_the_log_comes_again_also_to_another_worker(stream: Stream, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    stream.sink.append([event("a"), event("b")])
    source = stream.connect()
    broken = Intake(source, EventLog(tmp_path / "file"), tmp_path / "quarantine")
    for _ in range(2):
        with pytest.raises(EventLogError):
            take(broken, 2)
    source.close()
    source, log = stream.connect(), EventLog(tmp_path / "events")
    assert take(Intake(source, log, tmp_path / "quarantine"), 2).written == 2
    source.close()


@pytest.mark.parametrize("kind", ["redis", "kafka"])
def test_a_stream_that_is_away_acknowledges_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feature_repo.log.kafka_stream.APPEND_TIMEOUT_S", 0.5)
    settings = FeatureSettings(
        event_stream=kind,
        redis_url="redis://127.0.0.1:1/0",
        kafka_servers="127.0.0.1:1",
        kafka_options={"message.timeout.ms": "300", "log_level": "0"},
    )
    with pytest.raises(EventLogError, match=r"longtail-events (did not take|took no)"):
        open_sink(StateDir(tmp_path), settings).append([event()])
    assert open_source(FeatureSettings()) is None
