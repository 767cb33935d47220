"""What is said of streams beside unary calls."""

from __future__ import annotations

import pytest

from loadtest.batch import Round, report
from loadtest.compare.caller import Measured


def measured(per_s: float, p99_ms: float = 10.0, errors: dict[str, int] | None = None) -> Measured:
    return Measured(asked=100, answered=int(per_s * 10), seconds=10.0, p99_ms=p99_ms, errors=errors or {})


def one(*, stream_per_s: float = 400.0, beside_ms: float = 12.0, lost: int = 0, refused: int = 0) -> Round:
    return Round(
        one_by_one=measured(100),
        at_once=measured(300),
        stream_per_s=stream_per_s,
        people=measured(50),
        people_beside=measured(50, beside_ms, {"RESOURCE_EXHAUSTED": refused} if refused else None),
        lost=lost,
    )


def test_the_medians_and_their_ratios_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert report([one(), one(stream_per_s=500), one(stream_per_s=100)])
    said = capsys.readouterr().out
    assert "400 by one stream" in said
    assert "4.00 ×" in said
    assert "1.20 ×" in said


@pytest.mark.parametrize(
    "bad",
    [one(stream_per_s=250), one(beside_ms=16), one(lost=1), one(refused=2)],
    ids=["slow", "p99", "lost", "refused"],
)
def test_each_limit_counts(bad: Round) -> None:
    assert not report([bad])
