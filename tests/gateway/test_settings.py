from __future__ import annotations

import ast
from pathlib import Path

import pytest

import cli
import serving.gateway
from serving.gateway.deadline import Deadline, Stage
from serving.gateway.errors import DeadlineError
from serving.gateway.settings import GatewaySettings, StageShares

COMMAND = Path(cli.__file__).with_name("gateway.py")
SOURCES = [
    COMMAND,
    *(path for path in Path(serving.gateway.__file__).parent.rglob("*.py") if path.name != "settings.py"),
]


def test_every_setting_is_read_by_something() -> None:
    """Stage shares are read by the names of the stages."""
    read = {
        node.attr
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and "settings" in ast.unparse(node.value)
    }
    assert set(GatewaySettings.model_fields) <= read
    assert set(StageShares.model_fields) <= set(Stage)


def test_what_a_stage_leaves_the_next_one_has() -> None:
    elapsed = [0.0]
    deadline = Deadline(started_s=0.0, budget_s=2.0, shares=StageShares(), clock=lambda: elapsed[0])
    assert deadline.timeout_s(Stage.FEATURES) == pytest.approx(0.5)
    assert deadline.timeout_s(Stage.CANDIDATES) == pytest.approx(1.0)
    elapsed[0] = 0.4
    assert deadline.timeout_s(Stage.CANDIDATES) == pytest.approx(0.6)
    elapsed[0] = 1.9
    assert deadline.timeout_s(Stage.SCORE) == 0
    elapsed[0] = 2.0
    with pytest.raises(DeadlineError):
        deadline.timeout_s(Stage.POLICY)
