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
from pathlib import Path

from google.protobuf import descriptor, descriptor_pb2

ROOT = Path(__file__).parent
TFSERVING_MODULES = (
    "tensorflow_serving.apis.prediction_service_pb2",
    "tensorflow_serving.apis.model_service_pb2",
    "tensorflow_serving.apis.prediction_log_pb2",
)


def generate_python() -> None:
    """Compiles our .proto files to messages, stubs and their types."""
    sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("longtail/**/*.proto"))
    outputs = ("--python_out=.", "--mypy_out=.", "--grpc_python_out=.", "--mypy_grpc_out=.")
    plugins = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, *sources]
    subprocess.run(command, cwd=ROOT, env=plugins, check=True)


def generate_tfserving() -> None:
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
    (ROOT / "longtail/tfserving/tfserving.binpb").write_bytes(files.SerializeToString(deterministic=True))


if __name__ == "__main__":
    generate_python()
    generate_tfserving()
