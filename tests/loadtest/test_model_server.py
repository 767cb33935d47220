"""The comparison of model servers: what it asks, and how it judges."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from loadtest.model_server.__main__ import CALLERS, OURS, Measurements, report
from loadtest.model_server.caller import Measured, PredictRequest, Shape, question
from longtail.tfserving import message_class


def measurements(*, ours_per_s: float = 200, ours_p50_ms: float = 1, ours_score: float = 0.5) -> Measurements:
    def measured(per_s: float, p50_ms: float, score: float) -> list[Measured]:
        return [Measured(per_s=per_s, p50_ms=p50_ms, answers={7: np.array([score], np.float32)})]

    both = {OURS: measured(ours_per_s, ours_p50_ms, ours_score), "plain": measured(100, 1, 0.5)}
    return {(name, callers): rounds for name, rounds in both.items() for callers in CALLERS}


@pytest.mark.parametrize(
    ("measured", "missed"),
    [
        (measurements(), []),
        (measurements(ours_per_s=170), ["throughput at 32 callers"]),
        (measurements(ours_p50_ms=1.2), ["p50 at one caller"]),
        (measurements(ours_score=0.51), ["greatest difference of a score"]),
    ],
)
def test_a_missed_target_is_told_and_fails(
    measured: Measurements, missed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(measured) == (1 if missed else 0)
    told = [re.split(r"\s{2,}", line)[0] for line in capsys.readouterr().out.splitlines() if "MISSED" in line]
    assert told == missed


def test_questions_fit_the_signature() -> None:
    signature = message_class("tensorflow.SignatureDef")()
    for alias, dtype, sizes in (("history_age_s", 1, (-1, -1)), ("candidate_item_ids", 7, (-1, -1)), ("v", 9, (-1,))):
        signature.inputs[alias].dtype = dtype
        for size in sizes:
            signature.inputs[alias].tensor_shape.dim.add(size=size)
    shape = Shape(history=5, candidates=9)
    content = question("m", "rank", signature.inputs, shape, random.Random(1))
    request = PredictRequest.FromString(content)
    assert len(request.inputs["history_age_s"].float_val) == 5
    assert len(request.inputs["candidate_item_ids"].string_val) == 9
    assert [dim.size for dim in request.inputs["v"].tensor_shape.dim] == [1]
