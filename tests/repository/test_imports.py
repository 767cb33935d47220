"""The arrows of ARCHITECTURE.md: who may import whom. An arrow that points back is a failing test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED: dict[str, set[str]] = {
    "feature_repo": set(),
    "training": {"feature_repo", "longtail"},
    "serving": {"feature_repo", "longtail"},
    "loadtest": {"longtail"},
    "outcomes": {"feature_repo", "longtail"},
    "console": {"feature_repo", "serving", "longtail"},
    "simulator": {"feature_repo", "serving", "outcomes", "longtail"},
    "cli": {"feature_repo", "training", "serving", "loadtest", "outcomes", "console", "simulator", "longtail"},
}
# What a package is made of, from the ground up: a line imports itself and the lines before it.
LAYERS: dict[str, list[str]] = {
    "feature_repo": [
        "drafts errors events feast_api layout locks missing_values",
        "contract settings tabular",
        "catalogue_page decisions definitions lifecycle log transforms",
        "tables",
        "online",
        "checks stream",
        "benchmarks privacy",
    ],
    "serving.gateway": [
        "domain errors",
        "access load observing policy user",
        "settings",
        "deadline features feedback running",
        "course decisions eligibility ports",
        "breaker candidates scoring wire",
        "pipeline privacy",
        "campaigns",
        "servicer",
        "app",
        "serve",
        "benchmarks",
    ],
    "training": [
        "log model network vocabulary",
        "settings",
        "examples",
        "blend",
        "artifact evaluation returns",
        "export",
        "release",
        "fitting",
        "workflow",
        "reports",
        "benchmarks",
    ],
}
OURS = {*ALLOWED, "longtail", "tests", "protos"}
TENSORFLOW = {"tensorflow", "keras", "tensorflow_serving"}
# Baselines of the benchmarks: what is not ours, and must cost what it costs.
BASELINES = ("loadtest/compare/naive.py", "loadtest/model_server/plain.py")


def imported_by(path: Path) -> Iterator[str]:
    """Full names of the modules a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows(package: str) -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        for name in imported_by(path):
            yield str(path.relative_to(ROOT)), name


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_its_arrows_allow(package: str) -> None:
    wrong = [
        f"{path} imports {name}"
        for path, name in arrows(package)
        if (top := name.partition(".")[0]) in OURS - {package} - ALLOWED[package] and top != package
    ]
    assert not wrong


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_a_layer_imports_only_what_lies_below_it(package: str) -> None:
    height = {name: line for line, names in enumerate(LAYERS[package]) for name in names.split()}
    folder = ROOT / package.replace(".", "/")
    assert {path.stem for path in folder.iterdir() if path.suffix in ("", ".py")} - {"__init__", "__pycache__"} == {
        *height
    }
    wrong = []
    for path, name in arrows(package.replace(".", "/")):
        above = (ROOT / path).relative_to(folder).parts[0].removesuffix(".py")
        below = name.removeprefix(f"{package}.").partition(".")[0]
        if name.startswith(f"{package}.") and height[below] > height[above]:
            wrong.append(f"{path} imports {name}")
    assert not wrong


def test_the_gateway_and_the_features_never_name_tensorflow() -> None:
    paths = [*arrows("serving/gateway"), *arrows("feature_repo"), *arrows("loadtest")]
    named = [(path, name) for path, name in paths if name.partition(".")[0] in TENSORFLOW]
    assert not [f"{path} imports {name}" for path, name in named if path not in BASELINES]


def test_the_gateway_and_the_model_server_meet_only_on_the_wire() -> None:
    assert not [path for path, name in arrows("serving/gateway") if name.startswith("serving.model_server")]
    assert not [path for path, name in arrows("serving/model_server") if name.startswith("serving.gateway")]


def test_feast_is_imported_through_one_door() -> None:
    named = [path for package in sorted(ALLOWED) for path, name in arrows(package) if name.partition(".")[0] == "feast"]
    assert {*named} - {"loadtest/compare/naive.py", "loadtest/compare/floor.py"} == {"feature_repo/feast_api.py"}
