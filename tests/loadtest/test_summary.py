"""From single requests to the numbers of the report."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import profiles, report, samples, slo
from loadtest.plan import Plan
from loadtest.profiles import Slo
from loadtest.report import Report
from loadtest.samples import NOT_SENT, OK, Sample
from loadtest.summary import Summary, percentile, summarize


def asked(
    response_ms: float,
    *,
    state: str = "active",
    code: str = OK,
    due_s: float = 5.0,
    degraded: bool = False,
    rpc: str = "RankItems",
    service_ms: float | None = None,
) -> Sample:
    return Sample(
        due_s=due_s,
        rpc=rpc,
        user_kind="head",
        state=state if code == OK else "",
        code=code,
        degraded=degraded,
        response_ms=response_ms,
        service_ms=response_ms if service_ms is None else service_ms,
        stages_us={"score": int(response_ms * 500)},
    )


def summary(made: list[Sample], *, duration_s: float = 10.0, warmup_s: float = 0.0) -> Summary:
    return summarize(made, duration_s=duration_s, warmup_s=warmup_s)


def test_percentiles_are_of_each_user_state() -> None:
    made = [asked(ms, state="active") for ms in range(1, 101)]
    made += [asked(ms, state="dormant") for ms in range(1000, 1100, 10)]
    rows = {row.name: row for row in summary(made).states}
    active, dormant = rows["RankItems[active]"], rows["RankItems[dormant]"]
    assert (active.p50_ms, active.p95_ms, active.p99_ms, active.max_ms) == (50, 95, 99, 100)
    assert (dormant.p50_ms, dormant.p95_ms, dormant.p99_ms) == (1040, 1090, 1090)
    assert (active.throughput_per_s, dormant.throughput_per_s) == (10.0, 1.0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.sampled_from([50, 95, 99]))
def test_a_percentile_is_a_value_that_enough_values_do_not_exceed(values: list[float], rank: int) -> None:
    found = percentile(values, rank)
    assert found in values
    assert np.mean(np.array(values) <= found) >= rank / 100 - 1e-9
    assert np.mean(np.array(values) < found) < rank / 100


def test_a_fast_refusal_counts_as_slower_than_any_answer() -> None:
    made = [asked(10.0) for _ in range(95)] + [asked(0.1, code="RESOURCE_EXHAUSTED") for _ in range(5)]
    total = summary(made).total
    assert (total.p50_ms, total.p95_ms, total.p99_ms) == (10.0, 10.0, math.inf)
    assert total.errors == {"RESOURCE_EXHAUSTED": 5}
    assert total.error_rate == pytest.approx(0.05)
    assert total.throughput_per_s == 9.5


def test_failures_stand_in_a_row_of_their_own_beside_the_states() -> None:
    made = [asked(1.0), asked(2.0, code="DEADLINE_EXCEEDED"), asked(3.0, rpc="RecordEvents", state="")]
    assert [row.name for row in summary(made).states] == ["RankItems[active]", "RankItems[no answer]"]


def test_degraded_answers_are_counted_apart_from_errors() -> None:
    made = [asked(1.0), asked(1.0, degraded=True), asked(1.0, code="UNAVAILABLE")]
    total = summary(made).total
    assert (total.degraded, total.degraded_share) == (1, 0.5)
    assert total.errors == {"UNAVAILABLE": 1}


def test_the_warm_up_is_not_counted_but_told() -> None:
    made = [asked(500.0, due_s=1.9), asked(5.0, due_s=2.0), asked(5.0, due_s=9.0)]
    result = summary(made, warmup_s=2.0)
    assert (result.warmup_requests, result.total.requests, result.total.max_ms) == (1, 2, 5.0)
    assert [second.at_s for second in result.seconds] == [1, 2, 9]


def test_requests_that_were_due_but_never_sent_are_errors() -> None:
    made = [asked(1.0)] * 3 + [asked(0.0, code=NOT_SENT, rpc="")]
    result = summary(made)
    assert result.not_sent == 1
    assert result.total.errors == {NOT_SENT: 1}
    assert [row.name for row in result.rpcs] == ["RankItems"]


def test_the_wait_before_sending_is_part_of_the_latency_and_shown() -> None:
    result = summary([asked(100.0, service_ms=10.0)])
    assert result.total.p99_ms == 100.0
    assert result.total.service_p99_ms == 10.0
    assert result.send_lag_p99_ms == 90.0


def test_nothing_vanishes_between_samples_and_rows() -> None:
    codes = [OK, "UNAVAILABLE", OK, "DEADLINE_EXCEEDED"]
    made = [asked(i, code=codes[i % 4], state=("new", "active")[i % 2], due_s=i / 10) for i in range(100)]
    result = summary(made, warmup_s=3.0)
    assert result.warmup_requests + result.total.requests == len(made)
    for rows in (result.rpcs, result.states, result.user_kinds):
        assert sum(row.requests for row in rows) == result.total.requests


def test_samples_survive_their_file(tmp_path: Path) -> None:
    made = [asked(1.25, degraded=True, due_s=0.5), asked(2.5, code="UNAVAILABLE"), asked(0, code=NOT_SENT, rpc="")]
    samples.write(tmp_path / "samples.csv", made)
    assert samples.read(tmp_path / "samples.csv") == made


LIMITS = Slo(p99_ms=100, error_rate=0.01, degraded_share=0.1)


def verdicts(made: list[Sample]) -> dict[str, bool]:
    return {verdict.name: verdict.passed for verdict in slo.judge(LIMITS, summary(made).total)}


@pytest.mark.parametrize(
    ("made", "missed"),
    [
        ([asked(100.0)] * 100, set()),
        ([asked(10.0)] * 99 + [asked(5000.0)], set()),
        ([asked(10.0)] * 98 + [asked(100.1)] * 2, {"p99_ms"}),
        ([asked(10.0)] * 99 + [asked(1.0, code="UNAVAILABLE")], set()),
        ([asked(10.0)] * 98 + [asked(1.0, code="UNAVAILABLE")] * 2, {"error_rate", "p99_ms"}),
        ([asked(10.0)] * 98 + [asked(0.0, code=NOT_SENT, rpc="")] * 2, {"error_rate", "p99_ms"}),
        ([asked(10.0)] * 90 + [asked(10.0, degraded=True)] * 10, set()),
        ([asked(10.0)] * 89 + [asked(10.0, degraded=True)] * 11, {"degraded_share"}),
        ([], {"p99_ms", "error_rate", "degraded_share"}),
        ([asked(1.0, code="UNAVAILABLE")], {"p99_ms", "error_rate", "degraded_share"}),
    ],
)
def test_objectives_are_met_up_to_and_with_their_limit(made: list[Sample], missed: set[str]) -> None:
    assert {name for name, passed in verdicts(made).items() if not passed} == missed


def made_report(made: list[Sample]) -> Report:
    plan = Plan(profile_name="smoke", profile=profiles.load("smoke"), address="127.0.0.1:1", seed=1)
    result = summary(made)
    return Report(
        plan=plan,
        started_at=datetime(2026, 1, 2, tzinfo=UTC),
        summary=result,
        verdicts=slo.judge(plan.profile.slo, result.total),
    )


@pytest.mark.parametrize("made", [[], [asked(1.0, code="UNAVAILABLE")], [asked(3.0), asked(4.0, state="dormant")]])
def test_both_reports_can_be_written_of_any_run(tmp_path: Path, made: list[Sample]) -> None:
    html, data = report.write(made_report(made), tmp_path)
    document = json.loads(data.read_text())
    assert document["passed"] is made_report(made).passed
    assert document["summary"]["total"]["requests"] == len(made)
    text = html.read_text()
    assert "src=" not in text  # one page, nothing to load
    assert "href=" not in text
    for row in document["summary"]["states"]:
        assert row["name"] in text


def test_the_page_escapes_what_it_is_given() -> None:
    odd = made_report([asked(1.0, code="<script>")])
    assert "<script>" not in report.as_html(odd)
