"""The Dockerfile, what goes into it, and the tools that check it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES: dict[str, str] = dict(
    re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, flags=re.DOTALL | re.MULTILINE)
)


def test_the_base_image_is_pinned_to_a_version() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-bookworm$", DOCKERFILE, flags=re.MULTILINE)
    assert all(
        image == "${PYTHON_IMAGE}" or image in STAGES
        for image in re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE)
    )


@pytest.mark.parametrize("target", ["gateway", "jobs", "loadtest"])
def test_an_image_does_not_run_as_root_and_says_how_it_is_checked(target: str) -> None:
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", STAGES[target], flags=re.MULTILINE)
    assert "HEALTHCHECK" in STAGES[target]


@pytest.mark.parametrize("lock", ["runtime", "train", "loadtest"])
def test_dependencies_come_from_the_lock_with_their_hashes(lock: str) -> None:
    assert (ROOT / f"requirements/{lock}.txt").is_file()
    assert f"COPY requirements/{lock}.txt" in DOCKERFILE
    installs = re.findall(r"pip install .*requirement .*", DOCKERFILE)
    assert installs
    assert all("--no-deps" in line and "--require-hashes" in line for line in installs)


def test_the_gateways_image_has_no_tensorflow() -> None:
    assert not re.search(r"^tensorflow", (ROOT / "requirements/runtime.txt").read_text(), flags=re.MULTILINE)


def test_everything_the_dockerfile_copies_is_in_the_build_context() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source in kept or source.partition("/")[0] in kept, source


def test_every_package_is_in_the_images() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    copied = set(re.findall(r"^COPY (\w+) /build/", STAGES["wheel"], flags=re.MULTILINE))
    assert packages - {"longtail"} | {"protos"} <= copied


def test_the_wheel_has_every_file_of_its_packages(tmp_path: Path) -> None:
    setup = [sys.executable, "-c", "import setuptools; setuptools.setup()"]
    steps = ["egg_info", f"--egg-base={tmp_path}", "build_py", f"--build-lib={tmp_path / 'lib'}"]
    subprocess.run([*setup, "--quiet", *steps], cwd=ROOT, check=True, capture_output=True, timeout=120)
    built = {path.relative_to(tmp_path / "lib") for path in (tmp_path / "lib").rglob("*") if path.is_file()}
    for package in {path.parts[0] for path in built}:
        parent = ROOT / "protos" if package == "longtail" else ROOT
        files = {path.relative_to(parent) for path in (parent / package).rglob("*.*") if path.is_file()}
        assert not {path for path in files - built if path.suffix not in (".pyc", ".proto")}


def test_the_lock_of_the_npm_tools_names_no_registry() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text())
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
    assert all("integrity" in package for name, package in lock["packages"].items() if name)


async def check(status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> int:
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await servicer.set("", status)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "deploy/healthy.py"), f"127.0.0.1:{port}", stdout=subprocess.DEVNULL
    )
    code = await process.wait()
    await server.stop(None)
    return code


async def test_the_health_check_passes_only_while_the_server_says_serving() -> None:
    assert await check(health_pb2.HealthCheckResponse.SERVING) == 0
    assert await check(health_pb2.HealthCheckResponse.NOT_SERVING) == 1


def test_the_health_check_fails_where_nothing_listens() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "deploy/healthy.py"), "127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "UNAVAILABLE" in done.stderr
