"""Samples to numbers: percentiles, throughput, errors and degraded share, per RPC, user state and kind of user.

A request that failed counts as slower than any answer, so p99 is the time within which 99 % of all requests were
answered, and fast refusals do not flatter it. A percentile that falls on a failure is infinite, None in JSON.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from loadtest.samples import NOT_SENT, OK, Sample

PERCENTILES: Final = (50, 95, 99)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One group of requests. Times are from when each was due, but for `service_p99_ms`: from when it was sent."""

    name: str
    requests: int
    throughput_per_s: float  # answers, per second of the counted time
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float  # of the answers
    service_p99_ms: float
    errors: dict[str, int]  # by gRPC code
    degraded: int

    @property
    def answered(self) -> int:
        return self.requests - sum(self.errors.values())

    @property
    def error_rate(self) -> float:
        return sum(self.errors.values()) / self.requests if self.requests else 0.0

    @property
    def degraded_share(self) -> float:
        """Of the answers."""
        return self.degraded / self.answered if self.answered else 0.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where the time went, as the answers tell it."""

    name: str
    answers: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class Second:
    """The requests due in one second of the run, warm-up included."""

    at_s: int
    requests: int
    errors: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """`total` has every counted request; each of the other lists of rows divides those that were sent."""

    counted_s: float
    warmup_requests: int
    not_sent: int
    send_lag_p99_ms: float  # from due to sent
    total: Row
    rpcs: tuple[Row, ...]
    states: tuple[Row, ...]  # by name, such as RankItems[dormant]
    user_kinds: tuple[Row, ...]
    stages: tuple[Stage, ...]
    seconds: tuple[Second, ...]


def summarize(samples: Sequence[Sample], *, duration_s: float, warmup_s: float) -> Summary:
    counted = [sample for sample in samples if sample.due_s >= warmup_s]
    sent = [sample for sample in counted if sample.code != NOT_SENT]
    counted_s = duration_s - warmup_s

    def rows(key: Callable[[Sample], str], samples: Sequence[Sample] = sent) -> tuple[Row, ...]:
        return tuple(row(name, group, counted_s) for name, group in _groups(samples, key))

    return Summary(
        counted_s=counted_s,
        warmup_requests=len(samples) - len(counted),
        not_sent=len(counted) - len(sent),
        send_lag_p99_ms=percentile([sample.response_ms - sample.service_ms for sample in sent], 99),
        total=row("all", counted, counted_s),
        rpcs=rows(lambda sample: sample.rpc),
        states=rows(
            lambda sample: sample.name if sample.code == OK else f"{sample.rpc}[no answer]",
            [sample for sample in sent if sample.state or sample.code != OK],
        ),
        user_kinds=rows(lambda sample: sample.user_kind),
        stages=_stages(sent),
        seconds=_seconds(samples),
    )


def row(name: str, samples: Sequence[Sample], counted_s: float) -> Row:
    response_ms = _with_failures(samples, lambda sample: sample.response_ms)
    p50, p95, p99 = (percentile(response_ms, rank) for rank in PERCENTILES)
    answered = [sample for sample in samples if sample.code == OK]
    return Row(
        name=name,
        requests=len(samples),
        throughput_per_s=len(answered) / counted_s,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=max((sample.response_ms for sample in answered), default=math.nan),
        service_p99_ms=percentile(_with_failures(samples, lambda sample: sample.service_ms), 99),
        errors=dict(Counter(sample.code for sample in samples if sample.code != OK).most_common()),
        degraded=sum(sample.degraded for sample in answered),
    )


def percentile(values: Iterable[float], rank: float) -> float:
    """The smallest value that `rank` % of the values do not exceed; NaN of nothing.

    >>> percentile([10, 20, 30, 40], 50)
    20.0
    """
    array = np.fromiter(values, float)  # [values]
    return float(np.percentile(array, rank, method="inverted_cdf")) if array.size else math.nan


def _with_failures(samples: Iterable[Sample], time_ms: Callable[[Sample], float]) -> list[float]:
    return [time_ms(sample) if sample.code == OK else math.inf for sample in samples]


def _groups(samples: Iterable[Sample], key: Callable[[Sample], str]) -> list[tuple[str, list[Sample]]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(key(sample), []).append(sample)
    return sorted(groups.items())


def _stages(samples: Iterable[Sample]) -> tuple[Stage, ...]:
    times_ms: dict[str, list[float]] = {}  # in the order in which the gateway lists them
    for sample in samples:
        for name, duration_us in sample.stages_us.items():
            times_ms.setdefault(name, []).append(duration_us / 1e3)
    return tuple(
        Stage(name=name, answers=len(times), p50_ms=percentile(times, 50), p99_ms=percentile(times, 99))
        for name, times in times_ms.items()
    )


def _seconds(samples: Iterable[Sample]) -> tuple[Second, ...]:
    by_second: dict[int, list[Sample]] = {}
    for sample in samples:
        by_second.setdefault(int(sample.due_s), []).append(sample)
    return tuple(
        Second(
            at_s=at_s,
            requests=len(group),
            errors=sum(sample.code != OK for sample in group),
            p50_ms=percentile(_with_failures(group, lambda sample: sample.response_ms), 50),
            p99_ms=percentile(_with_failures(group, lambda sample: sample.response_ms), 99),
        )
        for at_s, group in sorted(by_second.items())
    )
