"""The trained model on disk: weights, the ids its rows stand for, and what it was trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.contract import MODEL_USER_FEATURES
from feature_repo.errors import LongtailError
from feature_repo.log.extent import Extent
from training.blend import blend_file
from training.blend.blend import Blend
from training.model import Recommender, build
from training.network.fill_values import FillValues, from_json, nothing_learnt
from training.network.items import ItemTerms
from training.network.shape import ModelShape
from training.vocabulary import FIRST_ROW, UNKNOWN

FORMAT = 5
BLEND = "blend.npz"
USERS = "users.parquet"  # a file of its own kind, so that `features erase` finds the user in it


@dataclass(frozen=True, kw_only=True)
class UserWeights:
    """The users' part of a trained model, which can be read without building it."""

    version: int
    user_ids: np.ndarray  # str [users]
    weights: np.ndarray  # δ_u and b_u, float32 [users, width + 1]


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model that can be evaluated and exported without the log it came from."""

    version: int  # UTC time of the training run, YYYYMMDDHHMMSS
    recommender: Recommender
    item_ids: np.ndarray  # str [items]; item k is row FIRST_ROW + k
    event_types: np.ndarray  # str [types]; type k is row FIRST_ROW + k
    user_ids: np.ndarray  # str [users]; user k is row 1 + k of δ; "" for a user who was erased since
    popularity: np.ndarray  # float32 [rows, P], at the end of the training window
    blend: Blend  # with the tables of the end of the training window
    window_us: tuple[int, int]  # first event, and the cut: events strictly before it
    curve: list[dict[str, Any]] = field(default_factory=list)  # of the search on validation
    best_epoch: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    fill_values: FillValues = field(default_factory=nothing_learnt)  # what stands in for missing user features
    teacher: dict[str, Any] | None = None  # of a student: see distillation.Teachers
    log: Extent | None = None  # how much of the event log it was split from; what came later is not asked of it
    log_end_us: int | None = None  # of that log: events strictly before it; None of a model from before this was kept
    is_warm: bool = False  # fitted from the weights of a training before

    @property
    def shape(self) -> ModelShape:
        return self.recommender.model_shape

    def user_weights(self) -> UserWeights:
        """The users' part of it."""
        weights = np.asarray(self.recommender.user_weights.get_weights()[0])[1:]
        return UserWeights(version=self.version, user_ids=self.user_ids, weights=weights)


def folded(recommender: Recommender, terms: ItemTerms | None, rarity: np.ndarray) -> Recommender:
    """The same recommender with one vector per item, the catalogue's cold items among them as the last rows.

    A cold item has the bias of the rarest tenth of the items; `rarity` [warm items] is how often each was met.
    """
    if terms is None and recommender.compute_dtype == "float32":
        return recommender
    num_cold = len(terms.cold_ids) if terms else 0
    shape = recommender.model_shape
    shape = replace(shape, num_terms=0, num_items=shape.num_items + num_cold)
    plain = build(shape)
    plain.fill_values = recommender.fill_values
    known = _by_name(recommender)
    for name, variable in _by_name(plain).items():
        if not name.startswith(("items/", "item_bias/")) and "seed_generator" not in name:
            variable.assign(known[name])
    plain.items.embeddings.assign(recommender.items.folded(terms))
    bias = np.asarray(recommender.item_bias.embeddings)
    rarest = np.argsort(rarity, kind="stable")[: max(1, len(rarity) // 10)]
    cold = np.full((num_cold, 1), bias[FIRST_ROW + rarest].mean(), np.float32)
    plain.item_bias.embeddings.assign(np.concatenate([bias, cold]))
    return plain


def _by_name(recommender: Recommender) -> dict[str, Any]:
    """Variables by their path without the model's own name, which differs from one model to the next."""
    return {str(variable.path).removeprefix(f"{recommender.name}/"): variable for variable in recommender.variables}


def settle_unknown_item(recommender: Recommender) -> None:
    """Gives the row of unknown items the mean of the known ones: an item of which nothing is known."""
    for table in (recommender.items.embeddings, recommender.item_bias.embeddings):
        rows = np.array(table)
        rows[UNKNOWN] = rows[FIRST_ROW:].mean(axis=0)
        table.assign(rows)


def save(model: TrainedModel, directory: Path) -> None:
    """Writes the model; the directory appears whole or not at all."""
    draft = directory.with_name(f".{directory.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    model.recommender.save_weights(str(draft / "model.weights.h5"))
    np.savez_compressed(
        draft / "tables.npz",
        item_ids=model.item_ids.astype(str),
        event_types=model.event_types.astype(str),
        popularity=model.popularity,
    )
    _write_users(model, draft / USERS)
    blend_file.save(model.blend, draft / BLEND)
    described = {
        "format": FORMAT,
        "version": model.version,
        "shape": asdict(model.shape),
        "window_us": model.window_us,
        "curve": model.curve,
        "best_epoch": model.best_epoch,
        "settings": model.settings,
        "missing_values": model.fill_values.as_json(),
        "teacher": model.teacher,
        "log": None if model.log is None else model.log.as_json(),
        "log_end_us": model.log_end_us,
        "is_warm": model.is_warm,
    }
    (draft / "model.json").write_text(json.dumps(described, indent=2))
    shutil.rmtree(directory, ignore_errors=True)
    draft.rename(directory)


def settle_nobody(recommender: Recommender) -> None:
    """Moves what row 0 of δ learnt into W_0, where serving reads it for a user without weights; scores stay the same.

    Training drops users, who then have row 0. A user who was never asked about becomes one without weights too.
    """
    rows = np.array(recommender.user_weights.embeddings)
    nobody = rows[0].copy()
    recommender.shared_weights.assign(np.asarray(recommender.shared_weights) + nobody)
    rows[rows.any(axis=1)] -= nobody
    recommender.user_weights.embeddings.assign(rows)


def load(directory: Path) -> TrainedModel:
    """Reads the model. Raises LongtailError when there is none, or it is of another format or other features."""
    described = _described(directory)
    learnt_of = tuple(described["missing_values"]["features"])
    if learnt_of != MODEL_USER_FEATURES:
        raise LongtailError(
            f"the model in {directory} reads the user features {', '.join(learnt_of)}, here they are "
            f"{', '.join(MODEL_USER_FEATURES)}; run `longtail train` again"
        )
    recommender = build(ModelShape(**described["shape"]))
    recommender.load_weights(str(directory / "model.weights.h5"))
    rows, users = _read_users(directory, described["version"])
    user_ids = np.full(recommender.model_shape.num_users, "", object)
    user_ids[rows] = users.user_ids
    weights = np.zeros((len(user_ids) + 1, users.weights.shape[1]), np.float32)
    weights[1 + rows] = users.weights
    recommender.user_weights.embeddings.assign(weights)
    with np.load(directory / "tables.npz") as tables:
        return TrainedModel(
            version=described["version"],
            recommender=recommender,
            item_ids=tables["item_ids"].astype(object),
            event_types=tables["event_types"].astype(object),
            user_ids=user_ids,
            popularity=tables["popularity"],
            blend=blend_file.load(directory / BLEND),
            window_us=(described["window_us"][0], described["window_us"][1]),
            curve=described["curve"],
            best_epoch=described["best_epoch"],
            settings=described["settings"],
            fill_values=from_json(described["missing_values"]),
            teacher=described.get("teacher"),
            log=_log_of(described),
            log_end_us=described.get("log_end_us"),
            is_warm=described.get("is_warm", False),
        )


def teacher_version(directory: Path) -> int:
    """Of a student its teacher's, of any other model its own. Raises LongtailError as `load` does."""
    described = _described(directory)
    return int((described.get("teacher") or described)["version"])


def version_of(directory: Path) -> int:
    """The model's number. Raises LongtailError as `load` does."""
    return int(_described(directory)["version"])


def settings_of(directory: Path) -> dict[str, Any]:
    """What the model was trained with. Raises LongtailError as `load` does."""
    return dict(_described(directory)["settings"])


def log_read(directory: Path) -> Extent | None:
    """How much of the event log the model was split from. Raises LongtailError as `load` does."""
    return _log_of(_described(directory))


def _log_of(described: Mapping[str, Any]) -> Extent | None:
    """None of a model from before this was kept."""
    return Extent.from_json(described["log"]) if described.get("log") else None


def load_user_weights(directory: Path) -> UserWeights:
    """Reads δ_u and b_u alone. Raises LongtailError as `load` does."""
    return _read_users(directory, version_of(directory))[1]


def _write_users(model: TrainedModel, path: Path) -> None:
    weights = model.user_weights().weights
    cells = pa.array(weights.ravel())
    table = {
        "user_id": pa.array(model.user_ids.astype(str)),
        "row": pa.array(np.arange(len(weights), dtype=np.int32)),
        "weights": pa.FixedSizeListArray.from_arrays(cells, weights.shape[1]),
    }
    pq.write_table(pa.table(table), path, compression="zstd")


def _read_users(directory: Path, version: int) -> tuple[np.ndarray, UserWeights]:
    """Their places among all users, and the users: without those who were erased since."""
    table = pq.read_table(directory / USERS).combine_chunks()
    column = table["weights"].combine_chunks()
    weights = column.flatten().to_numpy().reshape(len(table), column.type.list_size)
    user_ids = np.array(table["user_id"].to_pylist(), object)
    return table["row"].to_numpy(), UserWeights(version=version, user_ids=user_ids, weights=weights)


def _described(directory: Path) -> dict[str, Any]:
    try:
        described = json.loads((directory / "model.json").read_text())
    except (OSError, ValueError) as error:
        raise LongtailError(f"there is no trained model in {directory}; run `longtail train` first") from error
    if described.get("format") != FORMAT:
        raise LongtailError(
            f"the model in {directory} has format {described.get('format')!r}, this version reads {FORMAT}; "
            "run `longtail train` again"
        )
    return dict(described)
