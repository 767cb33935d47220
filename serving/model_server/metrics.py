"""Prometheus metrics under the real server's names, labels and buckets.

The names start with a colon and counters have no `_total`, which prometheus_client does not write.
"""

from __future__ import annotations

import contextlib
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc

from serving.model_server.errors import ServingError

PATH: Final = "/monitoring/prometheus/metrics"
_MICROS: Final = 1e6
LATENCY_BUCKETS: Final = tuple(10 * 1.8**power for power in range(33))  # microseconds, to about 20 minutes
EXAMPLE_BUCKETS: Final = tuple(2.0**power for power in range(15))

MAX_SERIES: Final = 1000  # a caller chooses the model's name: the rest shares one series

Labels = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Counter:
    """A number for each combination of label values."""

    name: str
    labels: Labels
    values: dict[Labels, float] = field(default_factory=dict)

    def add(self, *labels: str, by: float = 1) -> None:
        labels = _bounded(labels, self.values)
        self.values[labels] = self.values.get(labels, 0) + by

    def lines(self) -> Iterator[str]:
        yield f"# TYPE {self.name} counter"
        for values, number in self.values.items():
            yield f"{self.name}{{{_pairs(self.labels, values)}}} {number:.15g}"


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """A distribution for each combination of label values."""

    name: str
    labels: Labels
    buckets: Sequence[float]
    counts: dict[Labels, list[int]] = field(default_factory=dict)
    sums: dict[Labels, float] = field(default_factory=dict)

    def add(self, *labels: str, value: float) -> None:
        labels = _bounded(labels, self.counts)
        counts = self.counts.setdefault(labels, [0] * (len(self.buckets) + 1))
        counts[bisect_left(self.buckets, value)] += 1
        self.sums[labels] = self.sums.get(labels, 0.0) + value

    def lines(self) -> Iterator[str]:
        yield f"# TYPE {self.name} histogram"
        limits = [*(f"{limit:.6g}" for limit in self.buckets), "+Inf"]
        for values, counts in self.counts.items():
            pairs, total = _pairs(self.labels, values), 0
            for limit, count in zip(limits, counts, strict=True):
                total += count
                yield f'{self.name}_bucket{{{pairs},le="{limit}"}} {total}'
            yield f"{self.name}_sum{{{pairs}}} {self.sums[values]:.15g}"
            yield f"{self.name}_count{{{pairs}}} {total}"


class Metrics:
    """All that is counted. Its methods belong to the event loop."""

    def __init__(self) -> None:
        prefix = ":tensorflow:serving:"
        self._requests = Counter(name=f"{prefix}request_count", labels=("model_name", "status"))
        self._request_latency = Histogram(
            name=f"{prefix}request_latency", labels=("model_name", "API", "entrypoint"), buckets=LATENCY_BUCKETS
        )
        self._runtime_latency = Histogram(
            name=f"{prefix}runtime_latency", labels=("model_name", "API", "runtime"), buckets=LATENCY_BUCKETS
        )
        self._examples = Histogram(name=f"{prefix}request_example_counts", labels=("model",), buckets=EXAMPLE_BUCKETS)
        self._example_total = Counter(name=f"{prefix}request_example_count_total", labels=("model",))

    @contextlib.contextmanager
    def request(self, model_name: str, api: str, entrypoint: str) -> Iterator[None]:
        """Counts the request made in this block, and its latency when it succeeds."""
        started, status = time.perf_counter(), grpc.StatusCode.CANCELLED
        try:
            yield
            status = grpc.StatusCode.OK
        except ServingError as error:
            status = error.code
            raise
        except Exception:
            status = grpc.StatusCode.INTERNAL
            raise
        finally:
            self._requests.add(model_name, status.name)
            if status is grpc.StatusCode.OK:
                self._request_latency.add(model_name, api, entrypoint, value=_micros_since(started))

    @contextlib.contextmanager
    def runtime(self, model_name: str, api: str) -> Iterator[None]:
        """Times TensorFlow's work for one request, its wait for company included."""
        started = time.perf_counter()
        yield
        self._runtime_latency.add(model_name, api, "TF1", value=_micros_since(started))

    def examples(self, model_name: str, count: int) -> None:
        """Counts the Examples of one request."""
        self._examples.add(model_name, value=count)
        self._example_total.add(model_name, by=count)

    def page(self) -> str:
        """The exposition format."""
        kinds = (self._requests, self._request_latency, self._runtime_latency, self._examples, self._example_total)
        return "\n".join(line for kind in kinds for line in kind.lines()) + "\n"


def _bounded(labels: Labels, known: Mapping[Labels, object]) -> Labels:
    return labels if labels in known or len(known) < MAX_SERIES else ("other",) * len(labels)


def _micros_since(started: float) -> float:
    return (time.perf_counter() - started) * _MICROS


def _pairs(labels: Labels, values: Labels) -> str:
    return ",".join(f'{label}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True))


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
