"""Traces from the caller over the stages to the model server; nothing when they are off."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.observing import tracing
from tests.gateway.conftest import Start, until
from tests.gateway.fakes import World
from tests.gateway.test_tfserving_scorer import Bench

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)


class Recorded:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.turn_off = tracing.turn_on(self.exporter)

    def spans(self) -> dict[str, ReadableSpan]:
        """By name; ends the recording."""
        self.turn_off()
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    recorded = Recorded()
    yield recorded
    recorded.turn_off()


async def test_a_trace_goes_from_the_caller_through_the_stages_to_the_model_server(
    start: Start, world: World, tmp_path: Path, recorded: Recorded
) -> None:
    async with AsyncExitStack() as stack:
        bench = Bench(stack, tmp_path / "models")
        world.model = await bench.scorer()  # type: ignore[assignment]
        running = await start(world)
        request = pb.RankItemsRequest(user_id="active", candidate_item_ids=["i05", "i06"])
        answer = await running.activation.RankItems(request, metadata=TRACEPARENT)
        spans = recorded.spans()
    served = spans["longtail.activation.v1/RankItems"]
    assert served.context is not None and served.parent is not None
    assert f"{served.parent.span_id:016x}" == PARENT
    assert {f"{span.context.trace_id:032x}" for span in spans.values() if span.context} == {TRACE}
    assert served.kind is SpanKind.SERVER
    assert served.attributes is not None
    assert served.attributes["longtail.decision_id"] == answer.decision_id
    assert served.attributes["rpc.grpc.status_code"] == 0
    for stage in ("features", "candidates", "score", "policy", "decision_log"):
        parent = spans[stage].parent
        assert parent is not None and parent.span_id == served.context.span_id
    asked = spans["tensorflow.serving.PredictionService"]
    assert asked.kind is SpanKind.CLIENT and asked.context is not None
    assert dict(bench.model.metadata_received)["traceparent"] == f"00-{TRACE}-{asked.context.span_id:016x}-01"


async def test_a_refused_call_has_its_code_and_nobody_is_named(start: Start, world: World, recorded: Recorded) -> None:
    running = await start(world)
    with pytest.raises(grpc.aio.AioRpcError):
        await running.activation.RankItems(pb.RankItemsRequest(user_id="mary.jones@example.com", limit=0))
    await running.activation.RankItems(pb.RankItemsRequest(user_id="mary.jones@example.com"))
    spans = recorded.exporter.get_finished_spans() or recorded.spans().values()
    assert "mary" not in "".join(span.to_json() for span in spans)


async def test_a_failure_of_the_gateway_marks_the_span(start: Start, world: World, recorded: Recorded) -> None:
    world.features.rows = None  # type: ignore[assignment]  # a bug
    running = await start(world)
    with pytest.raises(grpc.aio.AioRpcError):
        await running.activation.RankItems(pb.RankItemsRequest(user_id="active"))
    # The span ends after the answer, and with the count; looking at the spans ends the recording.
    await until(lambda: running.metric("longtail_requests_total", method="RankItems", code="INTERNAL"))
    served = recorded.spans()["longtail.activation.v1/RankItems"]
    assert served.status.status_code is StatusCode.ERROR


def test_when_off_opentelemetry_is_not_even_imported() -> None:
    script = (
        "import sys, serving.gateway.app; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert tracing.trace_id() == ""
    assert tracing.outgoing() == ()


async def test_calls_that_wait_for_another_are_not_taken_into_its_trace(
    start: Start, world: World, tmp_path: Path, recorded: Recorded
) -> None:
    async with AsyncExitStack() as stack:
        bench = Bench(stack, tmp_path / "models")
        world.model = await bench.scorer()  # type: ignore[assignment]
        bench.model.delay_s = 0.02
        running = await start(world)
        traces = [f"{place:032x}" for place in range(1, 13)]

        async def ask(trace: str) -> None:
            request = pb.RankItemsRequest(user_id="active", candidate_item_ids=["i05"])
            await running.activation.RankItems(request, metadata=(("traceparent", f"00-{trace}-{PARENT}-01"),))
            await running.activation.RankItems(request, metadata=(("traceparent", f"00-{trace}-{PARENT}-01"),))

        await asyncio.gather(*(ask(trace) for trace in traces))
        recorded.turn_off()
    by_id = {span.context.span_id: span for span in recorded.exporter.get_finished_spans() if span.context}
    asked = [span for span in by_id.values() if span.name.startswith("tensorflow")]
    assert len({span.context.trace_id for span in asked if span.context}) > 1
    for span in asked:
        assert span.context is not None and span.parent is not None
        parent = by_id[span.parent.span_id]
        assert parent.name == "score"
        assert parent.end_time is not None and span.end_time is not None
        assert parent.end_time >= span.end_time  # of one who is still waiting
        assert parent.context is not None and parent.context.trace_id == span.context.trace_id


async def test_what_the_gateway_asks_for_itself_is_in_no_trace(tmp_path: Path, recorded: Recorded) -> None:
    async with AsyncExitStack() as stack:
        scorer = await Bench(stack, tmp_path / "models").scorer()
        await scorer.verify(timeout_s=10)
    assert recorded.spans() == {}


async def test_each_answer_of_a_stream_has_a_span_that_names_its_decision(
    start: Start, world: World, recorded: Recorded
) -> None:
    running = await start(world)
    requests = [pb.RankItemsRequest(user_id=user) for user in ("active", "casual")]
    call = running.activation.BatchRankItems(iter(requests), metadata=TRACEPARENT)
    decisions = {answer.decision_id async for answer in call}
    recorded.turn_off()
    spans = [span for span in recorded.exporter.get_finished_spans() if span.name == "answer"]
    assert {span.attributes["longtail.decision_id"] for span in spans if span.attributes} == decisions
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context} == {TRACE}


async def test_without_a_collector_calls_are_answered_and_a_drain_goes_on(
    start: Start, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    turn_off = tracing.turn_on()
    try:
        running = await start(world)
        assert (await running.activation.RankItems(pb.RankItemsRequest(user_id="active"))).items
    finally:
        async with asyncio.timeout(10):
            await asyncio.to_thread(turn_off)
    assert tracing.trace_id() == ""
