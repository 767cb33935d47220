"""Each way to compress an export beside the others: bytes, time and quality, in one run. Imports TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from training.artifact import TrainedModel
from training.evaluation.assessment import Assessment
from training.export.saved_model import export, sample_requests
from training.export.served_model import ServedModel, served
from training.fitting.runs import Run
from training.network.compression import COMPRESSIONS, Compression
from training.release.incumbent import Published
from training.release.publish import write_user_weights
from training.reports.version_comparison import Difference, asked, difference

PLAIN: Final[Compression] = "none"
CANDIDATES: Final = 200
RETRIEVED: Final = 200
BATCH: Final = 32
ROUNDS: Final = 30
SLICES: Final = ("all", "tail")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one variant takes. Times are medians of one call in CPU time, one thread, the variants in turn."""

    size_mb: float
    rank_ms: float  # one user, 200 candidates, a full history
    rank_batch_ms: float  # 32 such users in one call
    retrieve_ms: float  # one user, the whole catalogue
    retrieve_batch_ms: float  # 32 users in one call


@dataclass(frozen=True, kw_only=True)
class Nearness:
    """How near a variant's answers to random requests are to those of the uncompressed model."""

    largest_difference: float  # of a probability that `rank` gives
    rank_overlap: float  # share of the ten best of 200 candidates that are the same
    retrieve_overlap: float  # of the ten best of the catalogue


@dataclass(frozen=True, kw_only=True)
class Quality:
    """NDCG@10 on the test, through `rank` over the whole catalogue, by slice; and the paired difference to none."""

    ndcg: Mapping[str, float]
    differences: Mapping[str, Difference]
    overlap: float  # share of each user's ten best items that are the same


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One compression; quality is missing where there is no test to ask."""

    compression: Compression
    cost: Cost
    nearness: Nearness
    quality: Quality | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def export_all(model: TrainedModel, folder: Path) -> dict[Compression, Path]:
    """One export for each compression, each verified."""
    return {
        name: export(
            model, folder / name, retrieve_k=RETRIEVED, candidate_buckets=(CANDIDATES,), metrics={}, compression=name
        )
        for name in COMPRESSIONS
    }


def weigh(model: TrainedModel, exports: Mapping[Compression, Path], *, rounds: int = ROUNDS) -> list[Variant]:
    """Cost and nearness of exports, without a test."""
    many = sample_requests(model, batch=BATCH, candidates=CANDIDATES, seed=3, is_full=True)[0]
    one = {name: values[:1] for name, values in many.items()}
    any_past = sample_requests(model, batch=BATCH, candidates=CANDIDATES, seed=4)[0]
    calls = [("rank", one), ("rank", many), ("retrieve", one), ("retrieve", many)]
    with ExitStack() as held:
        models = {name: held.enter_context(served(path, threads=1)) for name, path in exports.items()}
        took_ms = {name: [] for name in models}  # type: dict[Compression, list[float]]
        for signature, inputs in calls:
            for name, median_ms in _medians_ms(models, signature, inputs, rounds).items():
                took_ms[name].append(median_ms)
        answers = {name: _answers(each, any_past) for name, each in models.items()}
    return [
        Variant(
            compression=name,
            cost=Cost(
                size_mb=size_mb(path),
                rank_ms=took_ms[name][0],
                rank_batch_ms=took_ms[name][1],
                retrieve_ms=took_ms[name][2],
                retrieve_batch_ms=took_ms[name][3],
            ),
            nearness=_nearness(answers[PLAIN], answers[name]),
        )
        for name, path in exports.items()
    ]


def size_mb(directory: Path) -> float:
    """Of all files."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) / 1e6


def _medians_ms(
    models: Mapping[Compression, ServedModel], signature: str, inputs: Mapping[str, np.ndarray], rounds: int
) -> dict[Compression, float]:
    took_s: dict[Compression, list[float]] = {name: [] for name in models}
    for round_number in range(rounds + 1):
        for name, model in models.items():
            began_s = time.process_time()
            model.ask(signature, inputs)
            if round_number:  # the first is a warm-up
                took_s[name].append(time.process_time() - began_s)
    return {name: float(np.median(times)) * 1e3 for name, times in took_s.items()}


@dataclass(frozen=True, kw_only=True)
class _Answers:
    scores: np.ndarray  # float32 [users, candidates]
    candidates: np.ndarray  # str [users, candidates]
    found: np.ndarray  # str [users, K]


def _answers(model: ServedModel, inputs: Mapping[str, np.ndarray]) -> _Answers:
    scores = model.ask("rank", inputs)["scores"]
    return _Answers(
        scores=scores, candidates=inputs["candidate_item_ids"], found=model.ask("retrieve", inputs)["item_ids"]
    )


def _nearness(plain: _Answers, other: _Answers) -> Nearness:
    ranked = [
        np.take_along_axis(each.candidates, np.argsort(-each.scores, axis=1, kind="stable")[:, :10], axis=1)
        for each in (plain, other)
    ]
    return Nearness(
        largest_difference=float(np.abs(plain.scores - other.scores).max()),
        rank_overlap=overlap(*ranked),
        retrieve_overlap=overlap(plain.found[:, :10], other.found[:, :10]),
    )


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """The mean share of a user's items [users, k] that are in both lists; what is empty in the first is not asked.

    >>> overlap(np.array([["a", "b"], ["a", "b"]]), np.array([["b", "a"], ["a", "c"]]))
    0.75
    """
    shares = [len(set(one) & set(other)) / len(set(one)) for one, other in zip(first, second, strict=True)]
    return float(np.mean(shares))


def compare(
    run: Run, model: TrainedModel, exports: Mapping[Compression, Path], *, rounds: int = ROUNDS
) -> list[Variant]:
    """Exports of one model by their compression, asked the test of the temporal split too."""
    with TemporaryDirectory(prefix="longtail-user-weights-") as scratch:
        weights = Path(scratch) / "user_weights.parquet"
        until = datetime.fromtimestamp(model.window_us[1] / 1e6, UTC)
        write_user_weights(weights, model.user_weights(), now=until)
        versions: dict[str, Published] = {
            name: Published(version=model.version, directory=path, user_weights=weights)
            for name, path in exports.items()
        }
        assessment = asked(run, versions)
    return [
        replace(each, quality=_quality(assessment, each.compression)) for each in weigh(model, exports, rounds=rounds)
    ]


def _quality(assessment: Assessment, name: Compression) -> Quality:
    plain, other = assessment.answers[PLAIN], assessment.answers[name]
    slices = {each: assessment.slices[each] for each in SLICES if assessment.slices[each].any()}
    return Quality(
        ndcg={each: float(np.nanmean(other.per_user["ndcg"][users])) for each, users in slices.items()},
        differences={
            each: difference(each, "ndcg", users, plain.per_user, other.per_user) for each, users in slices.items()
        },
        overlap=overlap(plain.top[:, :10], other.top[:, :10]),
    )


def table(variants: Sequence[Variant]) -> str:
    """For people; × is the share of the first's, ± two standard errors of the paired difference to the first."""
    lines = [f"{'':8s} {'MB':>8s} {'rank 1':>8s} {'rank 32':>8s} {'retr. 1':>8s} {'retr. 32':>8s}  CPU ms a call"]
    for each in variants:
        cost, plain = each.cost, variants[0].cost
        cells = " ".join(f"{value:8.2f}" for value in asdict(cost).values())
        shares = f"× {cost.size_mb / plain.size_mb:.2f} of the bytes, {cost.rank_ms / plain.rank_ms:.2f} of rank 1"
        lines.append(f"{each.compression:8s} {cells}  {shares}")
    lines.append(f"\n{'':8s} largest difference of a score, share of the ten best that are the same")
    for each in variants:
        near = each.nearness
        shares = f"rank {near.rank_overlap:.3f}, retrieve {near.retrieve_overlap:.3f}"
        lines.append(f"{each.compression:8s} {near.largest_difference:.5f}, {shares}")
    asked_too = [(each, each.quality) for each in variants if each.quality is not None]
    if asked_too:
        lines.append(f"\n{'':8s} NDCG@10 on the test, and its ten best that are the same")
    for each, quality in asked_too:
        cells = "  ".join(_ndcg_cell(name, quality) for name in quality.ndcg)
        lines.append(f"{each.compression:8s} {cells}  same {quality.overlap:.3f}")
    return "\n".join(lines)


def _ndcg_cell(name: str, quality: Quality) -> str:
    one = quality.differences[name]
    error = "" if one.error is None else f" ±{2 * one.error:.4f}"
    return f"{name} ({one.users}) {quality.ndcg[name]:.4f} {one.difference:+.4f}{error}"


def as_json(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """For compressions.json."""
    return [each.as_json() for each in variants]
