"""Users and their candidates → the model's inputs, several users in one request, padded as the contract says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.gateway.domain import ItemId, ModelUser
from serving.gateway.scoring import tensors
from serving.gateway.scoring.model_contract import Contract


def user_inputs(contract: Contract, users: Sequence[ModelUser]) -> dict[str, Any]:
    """Weights of another size than the model's are none."""
    length, width = contract.history_length, contract.embedding_size + 1
    age_s = np.zeros((len(users), length), np.float32)  # [users, history]
    weights = np.zeros((len(users), width), np.float32)  # [users, embedding + 1]
    versions = np.zeros(len(users), np.int64)  # [users]
    for place, user in enumerate(users):
        known = min(len(user.history_item_ids), length)
        age_s[place, :known] = user.history_age_s[:known]
        if user.user_weights.size == width:
            weights[place], versions[place] = user.user_weights, user.user_weights_version
    return {
        "history_item_ids": tensors.from_strings([user.history_item_ids for user in users], length),
        "history_event_types": tensors.from_strings([user.history_event_types for user in users], length),
        "history_age_s": tensors.from_floats(age_s),
        "user_features": tensors.from_floats(np.stack([user.user_features for user in users])),
        "user_weights": tensors.from_floats(weights),
        "user_weights_version": tensors.from_ints(versions),
    }


def candidate_inputs(candidates: Sequence[Sequence[ItemId]], bucket: int) -> dict[str, Any]:
    return {"candidate_item_ids": tensors.from_strings(candidates, bucket)}
