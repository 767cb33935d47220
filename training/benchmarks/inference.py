"""What TensorFlow takes to answer: one exported model, or several beside each other.

    python -m training.benchmarks.inference [SAVED_MODEL ...] [--items N] [--rounds 200] [--operations] [--json FILE]

A model is held in a session of one thread, as TensorFlow Serving holds it on one core. The inputs lie in variables of
the session and the scores alone are fetched, so that no strings pass through Python: what is timed is the graph and
some 0.03 ms of the call. Times are of the process' CPU, medians of rounds in which the models take turns. Without
a SavedModel one of `--items` items is made up. Requests are made of the ids in the models' warm-up records.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import tensorflow as tf
import typer
from tensorflow.core.protobuf import saved_model_pb2

from longtail.tfserving import message_class
from training.benchmarks.compression import made_up
from training.export.saved_model import export
from training.export.served_model import one_pool_each
from training.export.serving_contract import ASSETS, WARMUP, Contract, read_contract

MADE_UP_ITEMS: Final = 4_000
CANDIDATES: Final = 200
SLOWEST: Final = 30
TAG: Final = "serve"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of request."""

    signature: str
    users: int
    history: int  # behaviours of each user
    candidates: int = CANDIDATES  # of 200 places; the others are padding

    def __str__(self) -> str:
        asked = f", {self.candidates} candidates" if self.signature == "rank" else ""
        return f"{self.signature}: {self.users} × {self.history} behaviours{asked}"


CASES: Final = (
    Case(signature="rank", users=1, history=50),
    Case(signature="rank", users=32, history=50),
    Case(signature="rank", users=1, history=3),
    Case(signature="rank", users=32, history=3),
    Case(signature="rank", users=1, history=3, candidates=100),
    Case(signature="retrieve", users=1, history=50),
    Case(signature="retrieve", users=32, history=50),
)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of one answer; being watched makes the small ones slower."""

    name: str
    kind: str
    took_ms: float


class HeldModel:
    """A signature in a session, with its inputs inside."""

    def __init__(self, session: Any, fed: Mapping[str, Any], taken: Any, answer: Any) -> None:
        self._session, self._fed, self._taken, self._answer = session, fed, taken, answer
        self._call = session.make_callable(answer)

    def take(self, request: Mapping[str, np.ndarray]) -> None:
        """What the next calls answer."""
        self._session.run(self._taken, {fed: request[name] for name, fed in self._fed.items()})

    def call_ms(self) -> float:
        """CPU time of one answer."""
        began_s = time.process_time()
        self._call()
        return (time.process_time() - began_s) * 1e3

    def operations(self) -> list[Operation]:
        """What one answer runs."""
        told = tf.compat.v1.RunMetadata()
        options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
        self._session.run(self._answer, options=options, run_metadata=told)
        return [
            Operation(
                name=node.node_name,
                kind=node.timeline_label.split(" = ")[-1].split("(")[0],
                took_ms=(node.op_end_rel_nanos - node.op_start_rel_nanos) / 1e6,
            )
            for device in told.step_stats.dev_stats
            for node in device.node_stats
        ]


@contextmanager
def held(directory: Path, signature: str) -> Iterator[HeldModel]:
    """The exported version, on one core."""
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=-1)
    described, graph = _signature(directory, signature), tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=config)
    try:
        with graph.as_default():  # no longer than this: the rest is eager
            specs = {alias: _spec(info) for alias, info in described.inputs.items()}
            fed = {alias: tf.compat.v1.placeholder(spec.dtype, spec.shape) for alias, spec in specs.items()}
            kept = {alias: _empty(f"asked_{alias}", spec) for alias, spec in specs.items()}
            taken = tf.group(*(variable.assign(fed[alias]) for alias, variable in kept.items()))
            session.run([variable.initializer for variable in kept.values()])
            replaced = {described.inputs[alias].name: variable.read_value() for alias, variable in kept.items()}
            tf.compat.v1.saved_model.load(session, [TAG], str(directory), input_map=replaced)
            answer = graph.get_tensor_by_name(described.outputs["scores"].name)
        yield HeldModel(session, fed, taken, answer)
    finally:
        session.close()


def _signature(directory: Path, name: str) -> Any:
    saved = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    return next(graph for graph in saved.meta_graphs if TAG in graph.meta_info_def.tags).signature_def[name]


def _spec(info: Any) -> tf.TensorSpec:
    return tf.TensorSpec([None if axis.size < 0 else axis.size for axis in info.tensor_shape.dim], info.dtype)


def _empty(name: str, spec: tf.TensorSpec) -> tf.Variable:
    zero = tf.constant("" if spec.dtype == tf.string else 0, spec.dtype, [size or 0 for size in spec.shape])
    return tf.Variable(zero, trainable=False, shape=spec.shape, name=name)  # a name that no model has


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What requests to a model are made of."""

    contract: Contract
    items: np.ndarray  # object [items]
    event_types: np.ndarray  # object [types]

    def request(self, case: Case, seed: int) -> dict[str, np.ndarray]:
        """Different items everywhere, as far as there are so many; some features missing, weights of the version."""
        rng = np.random.default_rng(seed)
        length = int(self.contract["history_length"])
        features = rng.exponential(3.0, (case.users, len(self.contract["user_features"])))
        weights = rng.normal(0.0, 0.1, (case.users, int(self.contract["embedding_size"]) + 1))
        is_met = np.arange(length) < case.history
        types = rng.choice(self.event_types, (case.users, length))
        ages = np.cumsum(rng.exponential(1e5, (case.users, length)), axis=1)
        return {
            "history_item_ids": np.where(is_met, self._draw(rng, case.users, length), ""),
            "history_event_types": np.where(is_met, types, ""),
            "history_age_s": np.where(is_met, ages, 0.0).astype(np.float32),
            "user_features": np.where(rng.random(features.shape) < 0.2, np.nan, features).astype(np.float32),
            "user_weights": weights.astype(np.float32),
            "user_weights_version": np.full(case.users, self.contract["model_version"], np.int64),
            "candidate_item_ids": np.where(
                np.arange(CANDIDATES) < case.candidates, self._draw(rng, case.users, CANDIDATES), ""
            ),
        }

    def _draw(self, rng: np.random.Generator, users: int, count: int) -> np.ndarray:
        return np.stack([rng.choice(self.items, count, replace=len(self.items) < count) for _ in range(users)])


def vocabulary(directory: Path) -> Vocabulary:
    """Of an exported version."""
    contract, found = read_contract(directory), defaultdict[str, set[bytes]](set)
    for record in tf.data.TFRecordDataset(str(directory / ASSETS / WARMUP)).as_numpy_iterator():
        request = message_class("tensorflow.serving.PredictionLog").FromString(record).predict_log.request
        for name in ("candidate_item_ids", "history_item_ids", "history_event_types"):
            found[name].update(request.inputs[name].string_val)
    items, types = found["candidate_item_ids"] | found["history_item_ids"], found["history_event_types"]
    return Vocabulary(
        contract=contract,
        items=np.array(sorted(each.decode() for each in items if each), object),
        event_types=np.array(sorted(each.decode() for each in types if each), object),
    )


@dataclass(frozen=True, kw_only=True)
class Took:
    """One model and one kind of request."""

    model: str
    case: Case
    median_ms: float  # CPU time of a call
    best_ms: float  # likewise, the least that was seen: other work on the machine adds to all the others
    operations: Sequence[Operation]

    @property
    def user_ms(self) -> float:
        return self.median_ms / self.case.users


def measure(directories: Sequence[Path], case: Case, *, rounds: int) -> list[Took]:
    """The models in turn, each with the requests of its own items."""
    took_ms = defaultdict[Path, list[float]](list)
    with ExitStack() as stack:
        models = {each: stack.enter_context(held(each, case.signature)) for each in directories}
        for directory, model in models.items():
            model.take(vocabulary(directory).request(case, seed=0))
        for number in range(rounds + 3):
            for directory, model in models.items():
                spent_ms = model.call_ms()
                if number >= 3:  # the first ones make the graph
                    took_ms[directory].append(spent_ms)
        return [
            Took(
                model=str(directory),
                case=case,
                median_ms=float(np.median(took_ms[directory])),
                best_ms=min(took_ms[directory]),
                operations=model.operations(),
            )
            for directory, model in models.items()
        ]


def table(took: Sequence[Took]) -> str:
    """For people; × is the share of the first model's."""
    lines, first = [], {each.case: each for each in reversed(took)}
    for case in dict.fromkeys(each.case for each in took):
        lines.append(f"\n{case}")
        for each in (one for one in took if one.case == case):
            share = each.median_ms / first[case].median_ms
            lines.append(
                f"  {each.median_ms:7.2f} ms, {each.user_ms:6.3f} a user, × {share:.2f}, best {each.best_ms:7.2f}, "
                f"{len(each.operations):4d} operations  {each.model}"
            )
    return "\n".join(lines)


def slowest(took: Took) -> str:
    """Operations of one answer by kind, and the slowest by name."""
    kinds, count = defaultdict[str, float](float), defaultdict[str, int](int)
    for each in took.operations:
        kinds[each.kind] += each.took_ms
        count[each.kind] += 1
    lines = [f"\n{took.case}  {took.model}"]
    lines += [f"  {kinds[kind]:8.3f} ms {count[kind]:4d} {kind}" for kind in sorted(kinds, key=kinds.__getitem__)[::-1]]
    by_time = sorted(took.operations, key=lambda each: -each.took_ms)[:SLOWEST]
    return "\n".join([*lines, "", *(f"  {each.took_ms:8.3f} ms {each.kind:20s} {each.name}" for each in by_time)])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks.inference", description=__doc__)
    parser.add_argument("models", type=Path, nargs="*", metavar="SAVED_MODEL", help="Exported versions.")
    parser.add_argument("--items", type=int, default=MADE_UP_ITEMS, help="Of the model that is made up.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--only", default="", help="Part of the name of the kinds of requests to measure.")
    parser.add_argument("--operations", action="store_true", help="Also show what each answer is made of.")
    parser.add_argument("--json", type=Path, help="Also write the numbers there.")
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    one_pool_each()
    with TemporaryDirectory(prefix="longtail-inference-") as scratch:
        models = given.models or [_made_up(Path(scratch), given.items)]
        cases = [case for case in CASES if given.only in str(case)]
        took = [each for case in cases for each in measure(models, case, rounds=given.rounds)]
    typer.echo(table(took))
    if given.operations:
        typer.echo("\n".join(slowest(each) for each in took))
    if given.json:
        numbers = [asdict(each) | {"operations": len(each.operations), "user_ms": each.user_ms} for each in took]
        given.json.write_text(json.dumps(numbers, indent=2) + "\n")


def _made_up(folder: Path, items: int) -> Path:
    model = made_up(items, width=64)
    return export(model, folder, retrieve_k=CANDIDATES, candidate_buckets=(CANDIDATES,), metrics={})


if __name__ == "__main__":
    main()
