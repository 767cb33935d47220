"""contract.json: what the gateway checks the model server's metadata against. No TensorFlow here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from feature_repo.contract import MODEL_USER_FEATURES
from feature_repo.errors import LongtailError

FORMAT: Final = 1
MODEL_NAME: Final = "longtail"
ASSETS: Final = "assets.extra"
CONTRACT: Final = "contract.json"
WARMUP: Final = "tf_serving_warmup_requests"
MEASURED: Final = "measured"  # in the assets of a version that was refitted on the whole log: the one that was measured
SIGNATURES: Final = ("serving_default", "rank", "retrieve", "encode_user")

Contract = dict[str, Any]


def contract_path(version_directory: Path) -> Path:
    """Where a version's contract lies."""
    return version_directory / ASSETS / CONTRACT


def measured_path(version_directory: Path) -> Path:
    """Where a refitted version keeps the SavedModel that was measured, which knows nothing of the test."""
    return version_directory / ASSETS / MEASURED


def make_contract(
    *,
    version: int,
    signatures: dict[str, dict[str, dict[str, Any]]],
    history_length: int,
    candidate_buckets: tuple[int, ...],
    retrieve_k: int,
    embedding_size: int,
    num_items: int,
    window: tuple[str, str],
    log_end: str,
    missing_values: dict[str, Any],
    metrics: dict[str, Any],
    compression: str,
    git_revision: str,
) -> Contract:
    """The contract of one version."""
    return {
        "format": FORMAT,
        "model_name": MODEL_NAME,
        "model_version": version,
        "signatures": signatures,
        "history_length": history_length,
        "candidate_buckets": list(candidate_buckets),
        "retrieve_k": retrieve_k,
        "embedding_size": embedding_size,
        "user_features": list(MODEL_USER_FEATURES),
        "missing_values": missing_values,
        "num_items": num_items,
        "training_window": {"start": window[0], "end": window[1]},
        "log_end": log_end,
        "metrics": metrics,
        "compression": compression,
        "git_revision": git_revision,
    }


def read_contract(version_directory: Path) -> Contract:
    """The contract of an exported version. Raises LongtailError when it is missing, broken or of another format."""
    path = contract_path(version_directory)
    try:
        contract = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LongtailError(
            f"{version_directory} is no whole export: {path.name} cannot be read; run `longtail export` again"
        ) from error
    if not isinstance(contract, dict) or contract.get("format") != FORMAT:
        found = contract.get("format") if isinstance(contract, dict) else contract
        raise LongtailError(
            f"the contract of {version_directory} has format {found!r}, this version of longtail writes and reads "
            f"{FORMAT}; run `longtail export` again"
        )
    return contract
