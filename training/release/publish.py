"""Makes an exported version visible to the model server, and its user weights to the feature store."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.errors import LongtailError
from training.artifact import UserWeights
from training.export import serving_contract
from training.export.serving_contract import ASSETS, CONTRACT, SIGNATURES, WARMUP
from training.release.incumbent import Published

REQUIRED_FILES = ("saved_model.pb", "variables/variables.index", f"{ASSETS}/{CONTRACT}", f"{ASSETS}/{WARMUP}")


def latest_export(exports: Path) -> Path:
    """The export of the highest version; LongtailError when there is none."""
    versions = [path for path in exports.glob("*") if path.is_dir() and path.name.isdecimal()]
    if not versions:
        raise LongtailError(f"there is no exported model in {exports}; run `longtail export` first")
    return max(versions, key=lambda path: int(path.name))


def check_export(directory: Path) -> int:
    """The export's version. LongtailError when files are missing or its contract is not what we serve."""
    missing = [name for name in REQUIRED_FILES if not (directory / name).is_file()]
    if missing:
        raise LongtailError(
            f"{directory} is half-written: {', '.join(missing)} missing; delete it and run `longtail export` again"
        )
    contract = serving_contract.read_contract(directory)
    if str(contract.get("model_version")) != directory.name:
        raise LongtailError(
            f"{directory} holds version {contract.get('model_version')!r}, not {directory.name} as its name says; "
            "run `longtail export` again"
        )
    absent = sorted(set(SIGNATURES) - set(contract.get("signatures", {})))
    if absent:
        raise LongtailError(f"the contract of {directory} lacks {', '.join(absent)}; run `longtail export` again")
    return int(directory.name)


def compression_of(directory: Path) -> str:
    """How a version keeps its tables; those of before there was a choice are as they were trained."""
    return str(serving_contract.read_contract(directory).get("compression", "none"))


def in_service(models: Path, *, user_weights: Path, stable: int | None = None) -> Published | None:
    """The version that answers: the one labelled stable, else the highest; None when nothing is published."""
    versions = [int(path.name) for path in models.glob("*") if path.is_dir() and path.name.isdecimal()]
    if not versions:
        return None
    version = max(versions) if stable is None else stable
    if version not in versions:
        raise LongtailError(f"version {version} is labelled stable, and is not in {models}; label one that is there")
    return Published(version=version, directory=models / str(version), user_weights=user_weights)


def check_unpublished(version: int, models: Path) -> None:
    """Raises LongtailError where the version answers, or did: what is of its number has to stay as it is."""
    if (models / str(version)).exists():
        raise LongtailError(
            f"version {version} is published already in {models}; a version never changes: "
            "run `longtail train` and what follows it for a new one"
        )


def publish(exported: Path, models: Path, *, papers: Mapping[str, str] | None = None) -> Path:
    """Copies the export beside the models and renames it into place, so that a server never sees half of it.

    `papers` (name → text) say why the version was released; they go into its `assets.extra`.
    """
    version = check_export(exported)
    check_unpublished(version, models)
    final = models / str(version)
    models.mkdir(parents=True, exist_ok=True)
    draft = models / f".{version}.{uuid.uuid4().hex}"
    try:
        shutil.copytree(exported, draft)
        for name, text in (papers or {}).items():
            (draft / ASSETS / name).write_text(text)
        for path in (*draft.rglob("*"), draft):
            _sync(path)
        draft.rename(final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _sync(models)
    return final


def write_user_weights(path: Path, model: UserWeights, *, now: datetime) -> None:
    """δ_u and b_u of every user as the offline rows of the view `user_weights`; replaces the file at once."""
    users = len(model.user_ids)
    table = pa.table(
        {
            "user_id": pa.array([str(user) for user in model.user_ids], pa.string()),
            "event_timestamp": pa.array([now] * users, pa.timestamp("us", tz="UTC")),
            "delta": pa.array(list(model.weights.astype(np.float32)), pa.list_(pa.float32())),
            "model_version": pa.array([model.version] * users, pa.int64()),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        pq.write_table(table, draft)
        _sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
