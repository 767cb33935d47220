"""Regenerates everything under protos/ that is generated; `make protos` runs it, `make lint` checks the drift.

- `longtail/activation/v1/*_pb2*.py[i]` from the .proto files beside them;
- `longtail/tfserving/tfserving.binpb`, TensorFlow Serving's wire descriptors, from the pinned package
  `tensorflow-serving-api` (docs/adr/0003 says why).
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor, descriptor_pb2

ROOT = Path(__file__).parent
TFSERVING_MODULES = (
    "tensorflow_serving.apis.prediction_service_pb2",
    "tensorflow_serving.apis.model_service_pb2",
    "tensorflow_serving.apis.prediction_log_pb2",
)


def generate_python(out: Path) -> None:
    """Compiles our .proto files to messages, stubs and their types, under `out`."""
    sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("longtail/**/*.proto"))
    outputs = [f"--{plugin}_out={out}" for plugin in ("python", "mypy", "grpc_python", "mypy_grpc")]
    plugins = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, *sources]
    subprocess.run(command, cwd=ROOT, env=plugins, check=True, capture_output=True)


def generate_tfserving(out: Path) -> None:
    """Collects TensorFlow Serving's file descriptors, dependencies first, into one FileDescriptorSet."""
    files = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()

    def add(file: descriptor.FileDescriptor) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        file.CopyToProto(files.file.add())

    for module in TFSERVING_MODULES:
        add(importlib.import_module(module).DESCRIPTOR)
    target = out / "longtail/tfserving/tfserving.binpb"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(files.SerializeToString(deterministic=True))


def drift() -> list[str]:
    """The generated files that differ from what the sources would generate now."""
    with tempfile.TemporaryDirectory() as scratch:
        generate_python(Path(scratch))
        generate_tfserving(Path(scratch))
        fresh = [path for path in Path(scratch).rglob("*") if path.is_file()]
        names = [str(path.relative_to(scratch)) for path in fresh]
        return sorted(n for n in names if not _same(Path(scratch) / n, ROOT / n))


def _same(fresh: Path, committed: Path) -> bool:
    return committed.is_file() and fresh.read_bytes() == committed.read_bytes()


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        if stale := drift():
            sys.exit(f"generated files are stale: {', '.join(stale)}; run `make protos` and commit what changes")
    else:
        generate_python(ROOT)
        generate_tfserving(ROOT)
