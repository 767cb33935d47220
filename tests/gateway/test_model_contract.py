"""What a contract says, and how it may differ from what is served or needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serving.gateway.scoring.model_contract import Contract, ContractError, Contracts, differences, read_contract
from tests.gateway.tiny_model_server import contract


def parsed(**changes: Any) -> Contract:
    return Contract.model_validate(contract(**changes))


def found(given: Contract, served: Contract | None = None) -> str:
    return "; ".join(differences(given, (served or given).signatures))


def changed(change: str) -> Contract:
    content = contract()
    rank, retrieve = content["signatures"]["serving_default"], content["signatures"]["retrieve"]
    if change == "dtype":
        rank["inputs"]["history_age_s"]["dtype"] = "DT_DOUBLE"
    elif change == "absent input":
        del rank["inputs"]["user_weights"]
    elif change == "further input":
        rank["inputs"]["surface"] = {"dtype": "DT_STRING", "shape": [-1]}
    elif change == "absent output":
        del retrieve["outputs"]["item_ids"]
    elif change == "absent signature":
        del content["signatures"]["retrieve"]
    return Contract.model_validate(content)


def test_a_model_that_follows_its_contract_differs_in_nothing() -> None:
    assert found(parsed()) == ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "dtype",
            "serving_default input 'history_age_s' is DT_FLOAT[-1, 50] in the contract, DT_DOUBLE[-1, 50] as served",
        ),
        ("absent input", "'user_weights' is DT_FLOAT[-1, 5] in the contract, absent as served"),
        ("further input", "'surface' is absent in the contract, DT_STRING[-1] as served"),
        ("absent output", "retrieve output 'item_ids' is DT_STRING[-1, 3] in the contract, absent as served"),
        ("absent signature", "signature 'retrieve' is not served; there are serving_default"),
    ],
)
def test_a_served_model_that_differs_is_told_where(change: str, told: str) -> None:
    assert told in found(parsed(), changed(change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("absent input", "sends ['user_weights'] that the contract lacks"),
        ("further input", "does not send ['surface']"),
        ("absent output", "the contract lacks ['item_ids']"),
        ("absent signature", "no signature 'retrieve'"),
    ],
)
def test_a_contract_that_this_gateway_cannot_serve_is_told_why(change: str, told: str) -> None:
    assert told in found(changed(change))


def test_features_in_another_order_are_another_contract() -> None:
    names = contract()["user_features"]
    assert "user_features are days_since_first_seen" in found(parsed(user_features=names[::-1]))


@pytest.mark.parametrize(("count", "bucket"), [(0, 4), (1, 4), (4, 4), (5, 16), (16, 16), (99, 16)])
def test_candidates_go_into_the_smallest_bucket_that_holds_them(count: int, bucket: int) -> None:
    assert parsed().bucket(count) == bucket


def write(models: Path, version: str, content: str) -> None:
    path = models / version / "assets.extra" / "contract.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)


def test_a_version_has_its_own_contract_or_the_newest(tmp_path: Path) -> None:
    write(tmp_path, "9", json.dumps(contract(9)))
    write(tmp_path, "10", json.dumps(contract(10)))
    write(tmp_path, "not a version", "{}")
    contracts = Contracts(path=None, models=tmp_path)
    assert contracts.of(9).model_version == 9
    assert contracts.of(11).model_version == 10


def test_an_empty_model_directory_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="longtail publish"):
        Contracts(path=None, models=tmp_path / "none").of(1)


def test_a_half_written_version_says_which_file_is_at_fault(tmp_path: Path) -> None:
    write(tmp_path, "1", '{"format": 1, "model_na')
    with pytest.raises(ContractError, match=r"1/assets.extra/contract.json is no contract"):
        Contracts(path=None, models=tmp_path).of(1)


@pytest.mark.parametrize("change", [{"format": 2}, {"candidate_buckets": []}, {"signatures": 3}])
def test_a_contract_of_another_format_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "contract.json"
    path.write_text(json.dumps(contract() | change))
    with pytest.raises(ContractError, match=str(next(iter(change)))):
        read_contract(path)


def test_a_contract_path_that_is_set_and_wrong_refuses_at_once(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"none\.json"):
        Contracts(path=tmp_path / "none.json", models=tmp_path)
