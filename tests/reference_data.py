"""Public data sets that the repository does not carry: REFERENCE_DATA names a folder that has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def reference_file(name: str) -> Path:
    """Skips the test when there is no such file; docs/outcomes.md says where each comes from."""
    folder = os.environ.get("REFERENCE_DATA")
    if folder is None:
        pytest.skip(f"needs {name}: set REFERENCE_DATA to the folder that has it")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"needs {path}, which is not there")
    return path
