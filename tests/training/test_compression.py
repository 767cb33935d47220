"""Compressed exports: the same answers but for a little, from a fraction of the bytes."""

from __future__ import annotations

import doctest
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from cli.main import app
from feature_repo.errors import LongtailError
from tests.training.conftest import SMALL, VERSION, Trained
from tests.training.test_export import LIKES_0, user
from training import artifact, workflow
from training.benchmarks import compression as compression_benchmark
from training.export.saved_model import export, sample_requests
from training.export.served_model import ServedModel, served
from training.export.stored_tables import ByteTable, HalfTable, NumberTable, ProductTable, RootTable, as_served
from training.fitting.progress import Progress
from training.network import compression
from training.network.compression import Compression
from training.release import gate, publish
from training.reports import compression_report, reporting

COMPRESSED: tuple[Compression, ...] = ("float16", "int8")  # "pq" needs more items than codes to be told from int8
CANDIDATES = [f"item-{shelf}-{number}" for shelf in range(4) for number in range(20)]
HISTORIES = [[], ["never seen"], LIKES_0, [f"item-1-{number}" for number in range(12)], ["item-2-3", "item-3-4"]]
Exported = Callable[[Compression], Path]
Ask = Callable[[Compression, str, dict[str, Any]], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    directory = tmp_path_factory.mktemp("compressed")
    made: dict[str, Path] = {"none": trained.exported}

    def make(name: Compression) -> Path:
        if name not in made:
            made[name] = export(
                trained.model, directory / name, retrieve_k=8, candidate_buckets=(4,), metrics={}, compression=name
            )
        return made[name]

    return make


@pytest.fixture(scope="module")
def ask(exported: Exported) -> Iterator[Ask]:
    """Loaded as TensorFlow Serving loads it, once."""
    with ExitStack() as held:
        models: dict[str, ServedModel] = {}

        def answer(name: Compression, signature: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
            if name not in models:
                models[name] = held.enter_context(served(exported(name)))
            return models[name].ask(signature, inputs)

        yield answer


def everyone() -> dict[str, np.ndarray]:
    """A request of users with no history, an unknown item, few and many items."""
    asked = [user(history) for history in HISTORIES]
    return {name: np.concatenate([each[name] for each in asked]) for name in asked[0]}


def ranked(ask: Ask, name: Compression) -> np.ndarray:
    candidates = np.array([[*CANDIDATES, "never seen", ""]] * len(HISTORIES), object)
    return ask(name, "rank", everyone() | {"candidate_item_ids": candidates})["scores"]


def test_codes_are_what_the_documentation_says() -> None:
    assert doctest.testmod(compression).failed + doctest.testmod(compression_report).failed == 0


@pytest.mark.parametrize("name", COMPRESSED)
def test_scores_and_order_stay_close_to_the_trained_ones(ask: Ask, name: Compression) -> None:
    plain, small = ranked(ask, "none"), ranked(ask, name)
    bound = {"float16": 2e-3, "int8": 2e-2}[name]
    assert 0 < np.abs(small - plain).max() < bound  # they differ: it is compressed
    top = [np.argsort(-scores[:, :80], axis=1)[:, :10] for scores in (plain, small)]
    overlap = np.mean([len(set(one) & set(other)) / 10 for one, other in zip(*top, strict=True)])
    assert overlap >= {"float16": 0.98, "int8": 0.9}[name]
    assert (small[:, -1] == 0).all()  # padding
    assert ((small[:, :-1] > 0) & (small[:, :-1] < 1)).all()  # unknown candidates and users without a past among them


@pytest.mark.parametrize("name", COMPRESSED)
def test_retrieve_gives_nearly_the_same_items_and_none_of_the_history(ask: Ask, name: Compression) -> None:
    plain, small = ask("none", "retrieve", everyone()), ask(name, "retrieve", everyone())
    for history, one, other in zip(HISTORIES, plain["item_ids"], small["item_ids"], strict=True):
        found = {item.decode() for item in other}
        assert len(found) == SMALL.retrieve_k
        assert not found & set(history)
        assert len(found & {item.decode() for item in one}) >= SMALL.retrieve_k - 1
    assert (np.diff(small["scores"], axis=1) <= 0).all()


@pytest.mark.parametrize("name", COMPRESSED)
def test_the_contract_is_the_same_but_for_the_compression(exported: Exported, name: Compression) -> None:
    plain, small = (json.loads((exported(each) / "assets.extra/contract.json").read_text()) for each in ("none", name))
    assert small.pop("compression") == name
    assert plain.pop("compression") == "none"
    assert plain.pop("candidate_buckets") != small.pop("candidate_buckets")  # those of this test
    assert small == plain


def test_each_step_of_compression_takes_fewer_bytes(exported: Exported) -> None:
    sizes = [_bytes(exported(name)) for name in ("none", *COMPRESSED)]
    assert sizes[1] < 0.6 * sizes[0]
    assert sizes[2] < 0.45 * sizes[0]


def _bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in (directory / "variables").iterdir())


def test_the_users_own_weights_are_not_in_the_saved_model(exported: Exported) -> None:
    for name in ("none", *COMPRESSED):
        shapes = [shape for _, shape in tf.train.list_variables(str(exported(name) / "variables/variables"))]
        assert [80 + 2, SMALL.embedding_size] in shapes  # the items are
        assert not [shape for shape in shapes if shape[-1:] == [SMALL.embedding_size + 1] and len(shape) == 2]


def test_what_is_measured_is_what_answers(trained: Trained, exported: Exported) -> None:
    """`evaluate` asks the model that compression leaves; its export scores the same, a cold item's row included."""
    left = as_served(trained.model, "int8")
    assert np.abs(left.user_weights().weights - trained.model.user_weights().weights).max() == 0
    again = as_served(left, "int8")  # what is written small once is written the same again
    for one, other in zip(left.recommender.get_weights(), again.recommender.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("rows", [9, 70_000])
def test_a_table_decodes_to_what_went_in(rows: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, 6)).astype(np.float32) * rng.exponential(1.0, (rows, 1)).astype(np.float32)
    values[0] = 0.0
    asked = np.array([[0, 1], [rows - 1, 5]])
    users = rng.normal(size=(3, 6)).astype(np.float32)
    for table, error in ((HalfTable(values), 1e-3), (ByteTable(values), 5e-3)):
        bound = error * np.abs(values).max(axis=1, keepdims=True) + 1e-7
        assert (np.abs(table.whole() - values) <= bound).all()
        np.testing.assert_array_equal(table.gather(asked), table.whole()[asked])
        np.testing.assert_allclose(table.dots(users), users @ table.whole().T, rtol=1e-4, atol=1e-4)
    numbers = np.arange(rows)[:, None] * np.array([1, 0, 200])
    np.testing.assert_array_equal(NumberTable(numbers).whole(), numbers)
    np.testing.assert_array_equal(NumberTable(numbers).gather(asked), numbers[asked])


def test_a_neighbour_that_speaks_a_little_is_still_heard() -> None:
    values = np.array([[[0.5, 1e-3, 1e-7, 0.0]], [[0.0, 0.0, 0.0, 0.0]]], np.float32)
    found = RootTable(values).whole()
    np.testing.assert_array_equal(found > 0, values > 0)
    np.testing.assert_allclose(found[0, 0, :2], [0.5, 1e-3], rtol=0.1)


def test_the_report_and_the_gate_speak_of_one_compression(trained: Trained, tmp_path: Path) -> None:
    artifact.save(trained.model, tmp_path / workflow.MODEL_FOLDER)
    chosen = trained.run.settings.model_copy(update={"compression": "int8"})
    evaluation = reporting.evaluate(
        replace(trained.run, settings=chosen),
        tmp_path,
        split="temporal",
        k=10,
        resume=False,
        progress=Progress(),
    )
    assert evaluation.report["compression"] == "int8"
    assert reporting.metrics_of(tmp_path, VERSION, "int8")["all"]["ndcg"] > 0
    assert reporting.metrics_of(tmp_path, VERSION, "none") == {}
    assert publish.compression_of(trained.exported) == "none"
    with pytest.raises(LongtailError, match=r"compression int8 and exported with none.*evaluate --compress none"):
        gate.judge(evaluation.report, candidate=VERSION, incumbent=VERSION - 1, errors=2.0, compression="none")


def test_the_command_names_the_compressions_there_are(tmp_path: Path) -> None:
    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["--state-dir", str(tmp_path), *words])
        return result.exit_code, " ".join(result.output.replace("│", " ").split())

    code, said = run("export", "--compress", "int4")
    assert code == 2
    assert "'none', 'float16', 'int8', 'pq'" in said
    code, said = run("evaluate", "--compressions", "--topk", "top.parquet")
    assert code == 2
    assert "--compressions is given alone" in said
    code, said = run("evaluate", "--compress", "int8", "--split", "leave-one-out")
    assert code == 2
    assert "temporal test" in said


def test_the_compressions_are_told_side_by_side(trained: Trained, exported: Exported) -> None:
    """Bytes fall, quality is measured for each, and the first is the same as itself."""
    exports: dict[Compression, Path] = {name: exported(name) for name in ("none", *COMPRESSED)}
    told = compression_report.compare(trained.run, trained.model, exports, rounds=1)
    plain, *small = json.loads(json.dumps(compression_report.as_json(told)))
    assert plain["quality"]["overlap"] == plain["nearness"]["retrieve_overlap"] == 1.0
    assert plain["quality"]["differences"]["all"]["difference"] == plain["nearness"]["largest_difference"] == 0.0
    assert [each["compression"] for each in small] == list(COMPRESSED)
    for each in small:
        assert each["cost"]["size_mb"] < plain["cost"]["size_mb"]
        assert 0 < each["nearness"]["largest_difference"] < 0.05
        assert each["quality"]["overlap"] > 0.9
        assert each["quality"]["ndcg"]["all"] == pytest.approx(plain["quality"]["ndcg"]["all"], abs=0.03)
    assert [line.split()[0] for line in compression_report.table(told).splitlines()[1:4]] == ["none", *COMPRESSED]


def test_product_quantization_answers_like_the_model_it_leaves(tmp_path: Path) -> None:
    """Of a catalogue of more items than codes, whose width is no multiple of four; no random vector is coded well."""
    model = compression_benchmark.made_up(600, width=18)
    directory = export(model, tmp_path, retrieve_k=20, candidate_buckets=(4,), metrics={}, compression="pq")
    requests = sample_requests(model, batch=4, candidates=60, seed=0)[0]
    with served(directory) as loaded:
        found = loaded.ask("retrieve", requests)["item_ids"]
        assert ((loaded.ask("rank", requests)["scores"] > 0) == (requests["candidate_item_ids"] != "")).all()
    assert found.shape == (4, 20)
    vectors, coded = (np.asarray(each.recommender.items.embeddings) for each in (model, as_served(model, "pq")))
    error = np.square(vectors - coded).sum() / np.square(vectors).sum()
    assert 0.001 < error < 0.2


def test_vectors_that_repeat_are_coded_exactly() -> None:
    """Fewer vectors than codes; one of them 0, and the others of any length."""
    kinds = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    kinds[0] = 0.0
    lengths = np.random.default_rng(1).exponential(3.0, (300, 1)).astype(np.float32)
    values = kinds[np.arange(300) % 20] * lengths
    table = ProductTable(values)
    np.testing.assert_allclose(table.whole(), values, atol=1e-4)
    users = np.ones((2, 8), np.float32)
    np.testing.assert_allclose(table.dots(users), users @ values.T, rtol=1e-3, atol=1e-3)
