"""Strategies for missing values: their names, and what is refused."""

from __future__ import annotations

import doctest

import pytest

from feature_repo import missing_values
from feature_repo.contract import MODEL_FEATURES
from feature_repo.missing_values import parse


@pytest.mark.parametrize("name", ["keep", "mean", "median", "similar", "constant(0.5)", "constant(-3)"])
def test_a_strategy_is_written_as_it_is_read(name: str) -> None:
    assert str(parse(f" {name} ")) == name


@pytest.mark.parametrize(
    "name",
    ["", "Mean", "mode", "constant", "constant()", "constant(x)", "constant(nan)", "constant(inf)", "constant(1e39)"],
)
def test_what_is_no_strategy_is_told_the_allowed_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"keep, mean, median, similar or constant\(x\)"):
        parse(name)


def test_the_contract_names_a_strategy_for_each_feature() -> None:
    assert all(str(parse(feature.missing)) == feature.missing for feature in MODEL_FEATURES)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(missing_values).failed == 0
