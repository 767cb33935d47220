"""Prometheus metrics under the real server's names."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.model_server.errors import invalid_argument
from serving.model_server.metrics import MAX_SERIES, Metrics


def samples(page: str) -> dict[tuple[str, str], float]:
    """Values by name and first label value, of samples without an upper bound."""
    return {
        (sample.name, next(iter(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_types_are_told_before_the_first_request() -> None:
    page = Metrics().page()
    assert "# TYPE :tensorflow:serving:request_count counter\n" in page
    assert "# TYPE :tensorflow:serving:request_latency histogram\n" in page


def test_requests_are_counted_by_model_and_status() -> None:
    metrics = Metrics()
    for _ in range(2):
        with metrics.request("m", "Predict", "GRPC"):
            pass
    with pytest.raises(ValueError, match="x"), metrics.request("m", "Predict", "REST"):
        raise ValueError("x")
    with pytest.raises(Exception, match="bad"), metrics.request("n", "Predict", "GRPC"):
        raise invalid_argument("bad")
    page = metrics.page()
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 2\n' in page
    assert ':tensorflow:serving:request_count{model_name="m",status="INTERNAL"} 1\n' in page
    assert ':tensorflow:serving:request_count{model_name="n",status="INVALID_ARGUMENT"} 1\n' in page
    labels = 'model_name="m",API="Predict",entrypoint="GRPC"'
    assert f":tensorflow:serving:request_latency_count{{{labels}}} 2\n" in page
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="+Inf"}} 2\n' in page
    assert 'entrypoint="REST"' not in page  # only what succeeded has a latency


def test_buckets_grow_from_ten_microseconds_by_1_8() -> None:
    metrics = Metrics()
    with metrics.runtime("m", "Predict"):
        pass
    limits = [
        line.split('le="')[1].split('"')[0] for line in metrics.page().splitlines() if "runtime_latency_buc" in line
    ]
    assert limits[:4] == ["10", "18", "32.4", "58.32"]
    assert len(limits) == 34
    assert 'API="Predict",runtime="TF1"' in metrics.page()


def test_examples_are_counted() -> None:
    metrics = Metrics()
    metrics.examples("m", 3)
    metrics.examples("m", 5)
    found = samples(metrics.page())
    assert found[(":tensorflow:serving:request_example_counts_sum", "m")] == 8
    assert ':tensorflow:serving:request_example_counts_bucket{model="m",le="4"} 1\n' in metrics.page()
    assert ':tensorflow:serving:request_example_count_total{model="m"} 8\n' in metrics.page()


def test_names_that_callers_make_up_do_not_grow_the_page_without_end() -> None:
    metrics = Metrics()
    for number in range(MAX_SERIES + 10):
        with metrics.request(f"m{number}", "Predict", "GRPC"):
            pass
    page = metrics.page()
    assert page.count(":tensorflow:serving:request_count{") == MAX_SERIES + 1
    assert ':tensorflow:serving:request_count{model_name="other",status="other"} 10\n' in page


def test_label_values_are_escaped() -> None:
    metrics = Metrics()
    with metrics.request('a"b\\c\nd', "Predict", "GRPC"):
        pass
    assert 'model_name="a\\"b\\\\c\\nd"' in metrics.page()
    assert list(text_string_to_metric_families(metrics.page()))
