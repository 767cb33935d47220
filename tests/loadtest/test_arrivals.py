"""When the load test asks."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.arrivals import Arrivals


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def drain(arrivals: Arrivals) -> list[float]:
    return list(iter(arrivals.take, None))


@given(rate=st.floats(1, 500), duration=st.floats(0.5, 20), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_due_times_follow_the_rate_in_order_and_end_with_the_run(rate: float, duration: float, seed: int) -> None:
    due = drain(Arrivals(rate_per_s=rate, duration_s=duration, seed=seed, clock=FakeClock()))
    assert all(earlier <= later for earlier, later in pairwise(due))
    assert all(1000.0 <= moment < 1000.0 + duration for moment in due)
    expected = rate * duration
    assert abs(len(due) - expected) <= 6 * expected**0.5 + 6


def test_due_times_do_not_wait_for_a_slow_server() -> None:
    clock = FakeClock()
    arrivals = Arrivals(rate_per_s=10, duration_s=10, seed=1, clock=clock)
    quick = drain(Arrivals(rate_per_s=10, duration_s=10, seed=1, clock=FakeClock()))
    slow = []
    while (due_s := arrivals.take()) is not None:
        slow.append(due_s)
        clock.now_s += 5.0
    assert slow == quick


def test_what_nobody_took_is_told_when_the_run_is_closed() -> None:
    arrivals = Arrivals(rate_per_s=10, duration_s=10, seed=1, clock=FakeClock())
    everything = drain(Arrivals(rate_per_s=10, duration_s=10, seed=1, clock=FakeClock()))
    taken = [arrivals.take() for _ in range(7)]
    assert taken + arrivals.close() == everything
    assert arrivals.take() is None


def test_in_a_closed_loop_a_request_is_due_when_it_is_asked_for_until_the_time_is_up() -> None:
    clock = FakeClock()
    arrivals = Arrivals(rate_per_s=None, duration_s=10, seed=1, clock=clock)
    assert arrivals.take() == 1000.0
    clock.now_s += 9.5
    assert arrivals.take() == pytest.approx(1009.5)
    assert arrivals.close() == []
    clock.now_s += 1.0
    assert arrivals.take() is None
