"""Callers that ask without pause, and look at each answer: is it whole, does it say what it lacks, is it right?"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from loadtest.compare.caller import METHOD, Load, questions
from longtail.activation.v1 import activation_pb2 as pb

DEADLINE_S: Final = 1.0
CALLERS: Final = 8
PAUSE_S: Final = 0.02
TOLERANCE: Final = 0.05  # of a score against the same user's earlier one: ages go on
GOOD_CODES: Final = frozenset({"OK", "RESOURCE_EXHAUSTED", "CANCELLED"})  # a refusal at once is an answer

Rows = frozenset[tuple[str, bool]]  # of each view, whether it has none


@dataclass(frozen=True, kw_only=True)
class Answer:
    at_s: float  # monotonic, when asked
    code: str
    took_s: float
    causes: frozenset[str] = frozenset()
    wrong: str = ""

    @property
    def is_full(self) -> bool:
        return self.code == "OK" and not self.causes


@dataclass(kw_only=True)
class Asking:
    """Asks until told to stop; what it learnt of healthy scores is what it compares with."""

    address: str
    answers: list[Answer] = field(default_factory=list)
    reference: dict[tuple[int, str, Rows], float] = field(default_factory=dict)
    is_learning: bool = True
    _stop: bool = False

    async def run(self) -> None:
        load = Load(address=self.address, seconds=0, candidates=100, seed=5)
        asked = list(questions(load))[:100]
        async with grpc.aio.insecure_channel(self.address) as channel:
            ask: Any = channel.unary_unary(METHOD, response_deserializer=pb.RankItemsResponse.FromString)
            await asyncio.gather(*(self._ask_on(ask, asked, number) for number in range(CALLERS)))

    def stop(self) -> None:
        self._stop = True

    async def _ask_on(self, ask: Any, asked: list[bytes], number: int) -> None:
        place = number
        while not self._stop:
            place = (place + CALLERS) % len(asked)
            began_s = time.monotonic()
            try:
                answer = await ask(asked[place], timeout=DEADLINE_S)
            except grpc.aio.AioRpcError as error:
                found = Answer(at_s=began_s, code=error.code().name, took_s=time.monotonic() - began_s)
            else:
                found = self._look(answer, place, began_s)
            self.answers.append(found)
            await asyncio.sleep(PAUSE_S)

    def _look(self, answer: pb.RankItemsResponse, place: int, began_s: float) -> Answer:
        return Answer(
            at_s=began_s,
            code="OK",
            took_s=time.monotonic() - began_s,
            causes=frozenset(one.dependency for one in answer.degraded_causes),
            wrong=self._wrong(answer, place),
        )

    def _wrong(self, answer: pb.RankItemsResponse, place: int) -> str:
        """What must not be in an answer that does not say so."""
        causes = {one.dependency for one in answer.degraded_causes}
        if answer.degraded != bool(causes):
            return "degraded and its causes differ"
        if answer.decision == pb.DECISION_SHOW and not answer.items:
            return "nothing is shown"
        scores = [item.score for item in answer.items]
        if "model" in causes:
            return "scores without a model" if any(scores) else ""
        if not answer.model.version:
            return "no model, and it does not say so"
        if not all(0 < score < 1 for score in scores):
            return f"scores from {min(scores)} to {max(scores)}"
        return self._compared(answer, place, causes)

    def _compared(self, answer: pb.RankItemsResponse, place: int, causes: set[str]) -> str:
        """With the same user's scores when all was well and the same rows were there: others say MISSING."""
        rows = frozenset((one.group, one.status == pb.FeatureStatus.STATUS_MISSING) for one in answer.feature_status)
        if self.is_learning:
            self.reference |= {(place, item.item_id, rows): item.score for item in answer.items}
            return ""
        if "features" in causes:
            return ""
        for item in answer.items:
            was = self.reference.get((place, item.item_id, rows), item.score)
            if abs(was - item.score) > TOLERANCE:
                return f"a score of {item.score:.3f} that was {was:.3f}"
        return ""
