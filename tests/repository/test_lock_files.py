"""The lock files install anywhere: hashed, and bound to no package index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LOCKS = sorted((Path(__file__).parents[2] / "requirements").glob("*.txt"))
LOCKS = [lock for lock in LOCKS if lock.name != "overrides.txt"]


def pins(lock: Path) -> dict[str, str]:
    """name and marker → version"""
    found = re.findall(r"^([a-z0-9-]+)==([^\s;]+)( ; [^\\]+)?", lock.read_text(), flags=re.MULTILINE)
    return {name + marker.strip(): version for name, version, marker in found}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_names_no_index_and_hashes_each_package(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "--index" not in text
    for requirement in re.split(r"\n(?=[a-z0-9])", text):
        if "==" in requirement:
            assert "--hash=sha256:" in requirement, requirement.splitlines()[0]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_each_lock_is_a_part_of_the_developers(lock: Path) -> None:
    developers = {name.partition(";")[0].strip() + version for name, version in pins(LOCKS[0]).items()}
    assert LOCKS[0].stem == "dev"
    assert {name.partition(";")[0].strip() + version for name, version in pins(lock).items()} <= developers


def test_the_gateway_installs_no_tensorflow() -> None:
    runtime = next(lock for lock in LOCKS if lock.stem == "runtime")
    assert not [name for name in pins(runtime) if name.startswith(("tensorflow", "keras", "torch", "jax"))]
