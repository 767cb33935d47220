"""What the fault and overload commands make of what callers saw."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.compare.caller import Measured
from loadtest.faults.__main__ import judge
from loadtest.faults.asking import Answer, Asking
from loadtest.faults.bad_model import PredictResponse, nan_scores, wrong_shape
from loadtest.fuzz import mutated, seeds
from loadtest.overload import Stage
from longtail.activation.v1 import activation_pb2 as pb


def answered(at_s: float, *, code: str = "OK", took_s: float = 0.1, causes: frozenset[str] = frozenset()) -> Answer:
    return Answer(at_s=at_s, code=code, took_s=took_s, causes=causes)


def test_refusals_count_as_answers_late_ones_do_not_and_recovery_ends_with_the_last_that_lacks_something() -> None:
    seen = judge(
        "fault",
        [
            answered(1.0),
            answered(2.0, code="RESOURCE_EXHAUSTED"),
            answered(3.0, took_s=9.0),
            answered(12.0, causes=frozenset({"model"})),
            answered(13.0),
        ],
        healed_s=10.0,
    )
    assert (seen.answered, seen.degraded, seen.recovery_s) == (0.8, 0.2, 2.0)
    assert not seen.is_fine


def an_answer(score: float = 0.5, **fields: object) -> pb.RankItemsResponse:
    items = [pb.RankedItem(item_id="i", score=score)]
    return pb.RankItemsResponse(decision=pb.DECISION_SHOW, items=items, **fields)  # type: ignore[arg-type]


def test_an_answer_that_hides_a_fault_is_wrong() -> None:
    asking = Asking(address="")
    model = pb.ModelVersion(version=1)
    assert asking._look(an_answer(model=model), 0, 0.0).wrong == ""
    asking.is_learning = False
    assert asking._look(an_answer(model=model), 0, 0.0).wrong == ""
    assert "that was 0.5" in asking._look(an_answer(0.9, model=model), 0, 0.0).wrong
    assert "no model" in asking._look(an_answer(), 0, 0.0).wrong
    cause = pb.DegradedCause(dependency="model", cause="timeout")
    told = an_answer(0.0, degraded=True, degraded_causes=[cause])
    assert asking._look(told, 0, 0.0).wrong == ""


def test_spoiled_answers_are_well_formed_and_wrong() -> None:
    response = PredictResponse()
    response.outputs["scores"].float_val.extend([0.1] * 6)
    for size in (2, 3):
        response.outputs["scores"].tensor_shape.dim.add(size=size)
    wrong_shape(response)
    assert [dim.size for dim in response.outputs["scores"].tensor_shape.dim] == [2, 2]
    assert len(response.outputs["scores"].float_val) == 4
    nan_scores(response)
    assert np.isnan(response.outputs["scores"].float_val).all()


def test_goodput_is_what_was_answered_whole() -> None:
    rounds = [Measured(asked=100, answered=60, degraded=10, seconds=2.0, errors={"RESOURCE_EXHAUSTED": 40})]
    stage = Stage.of(rounds)
    assert (stage.offered_per_s, stage.good_per_s) == (50, 25)
    assert stage.refused == pytest.approx(0.4)


def test_mutations_are_many_and_repeatable() -> None:
    import random

    data = seeds()[0] or b"\x0a\x01u"
    once, again = ([mutated(data, random.Random(seed)) for seed in range(40)] for _ in range(2))
    assert once == again
    assert len(set(once)) > 20
