"""Feast is imported without its run-time checks; others that mark their code for typeguard keep theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import typeguard
usual = typeguard.typechecked
from feature_repo import feast_api
assert typeguard.typechecked is usual
print(feast_api.Field(name="f", dtype=feast_api.Int64, description=3).description)  # a number is no description

@typeguard.typechecked
def count(number: int) -> None: ...

try:
    count("three")
except typeguard.TypeCheckError:
    print("checked")
"""


def test_feasts_classes_are_not_instrumented_and_nothing_else_is_changed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # typeguard reads the source
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["3", "checked"], done.stderr


def test_warnings_of_others_stay_as_quiet_as_they_were() -> None:
    """Feast would show each DeprecationWarning of any library once."""
    script = (
        "import warnings; from feature_repo import feast_api; warnings.warn_explicit('old', DeprecationWarning, 'f', 1)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
