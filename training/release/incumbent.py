"""The model in service as a scorer: its SavedModel, asked as TensorFlow Serving would ask it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.contract import MODEL_USER_FEATURES
from feature_repo.errors import LongtailError
from training.examples.moments import Tables, history_inputs
from training.examples.split import Question
from training.export import serving_contract
from training.vocabulary import FIRST_ROW


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """Scores the catalogue with the `rank` signature; an item or type it never saw is unknown to it."""

    rank: Any  # the signature
    inputs: dict[str, np.ndarray]  # the user inputs, each [moments, ...]
    candidate_ids: np.ndarray  # str [rows], "" for padding and unknown

    def __call__(self, users: slice) -> np.ndarray:
        import tensorflow as tf

        batch = {name: values[users] for name, values in self.inputs.items()}
        count = len(batch["user_weights_version"])
        ids = np.broadcast_to(self.candidate_ids, (count, len(self.candidate_ids)))
        tensors = {name: tf.constant(values) for name, values in batch.items()}
        scores: np.ndarray = self.rank(**tensors, candidate_item_ids=tf.constant(ids))["scores"].numpy()
        return scores  # [users, rows]


@dataclass(frozen=True, kw_only=True)
class Published:
    """The version in service on disk, and the users' own weights that were published with it."""

    version: int
    directory: Path
    user_weights: Path

    @property
    def _asked(self) -> Path:
        """The SavedModel that knows nothing of a test: the version itself, or what was measured before its refit."""
        measured = serving_contract.measured_path(self.directory)
        return measured if measured.exists() else self.directory

    def trouble(self, *, cut_us: int) -> str:
        """Why it cannot be asked what comes after the cut; empty when it can."""
        try:
            contract = serving_contract.read_contract(self._asked)
        except LongtailError as error:
            return str(error)
        if contract["user_features"] != list(MODEL_USER_FEATURES):
            return f"it reads other user features: {', '.join(contract['user_features'])}"
        learnt_until = datetime.fromisoformat(contract["training_window"]["end"])
        if learnt_until.timestamp() * 1e6 > cut_us:
            return f"it learnt from events until {learnt_until:%Y-%m-%d %H:%M}, after the test begins"
        return ""

    def scorer(self, question: Question, user_features: np.ndarray, row_items: np.ndarray) -> Incumbent:
        """The model, ready for a question; `row_items` are the ids of the item rows from FIRST_ROW on."""
        import tensorflow as tf

        asked = self._asked
        contract = serving_contract.read_contract(asked)
        history, moments = question.history, question.moments
        by_code = Tables(
            item_row=np.arange(1, len(history.item_ids) + 1), type_row=np.arange(1, len(history.event_types) + 1)
        )
        rows = history_inputs(history, moments, by_code, length=contract["history_length"])
        width = contract["embedding_size"] + 1
        path = self.user_weights if asked == self.directory else measured_weights(self.user_weights)
        weights, versions = _own_weights(path, history.user_ids[moments.user], self.version, width)
        return Incumbent(
            rank=tf.saved_model.load(str(asked)).signatures["rank"],
            inputs={
                "history_item_ids": np.append("", history.item_ids)[rows["history_items"]],
                "history_event_types": np.append("", history.event_types)[rows["history_types"]],
                "history_age_s": rows["history_age_s"],
                "user_features": user_features,
                "user_weights": weights,
                "user_weights_version": versions,
            },
            candidate_ids=np.concatenate([[""] * FIRST_ROW, row_items]).astype(object),
        )


def measured_weights(user_weights: Path) -> Path:
    """The users' own weights of the model that was measured, where those in service are of its refit."""
    return user_weights.with_name(f"measured_{user_weights.name}")


def _own_weights(path: Path, user_ids: np.ndarray, version: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """δ_u and b_u of this version, zero where there are none: float32 [users, width], int64 [users]."""
    weights = np.zeros((len(user_ids), width), np.float32)
    versions = np.zeros(len(user_ids), np.int64)
    if not path.exists():
        return weights, versions
    table = pq.read_table(path, columns=["user_id", "delta", "model_version"])
    table = table.filter(pc.field("model_version") == version)
    place = {user: row for row, user in enumerate(table["user_id"].to_pylist())}
    known = np.array([place.get(str(user), -1) for user in user_ids])
    if len(table):
        own = np.array(table["delta"].to_pylist(), np.float32)
        weights[known >= 0] = own[known[known >= 0]]
    versions[known >= 0] = version
    return weights, versions
