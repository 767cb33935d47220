"""Everything that decides a model's parameters, so that a checkpoint can be rebuilt from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from feature_repo.contract import HISTORY_LENGTH, MODEL_USER_FEATURES

EncoderName = Literal["attention", "transformer", "bert"]


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of one recommender."""

    num_users: int
    num_items: int
    num_event_types: int = 1
    encoder: EncoderName = "attention"
    embedding_size: int = 64
    num_heads: int = 8  # of the candidates' attention, and of the encoder `attention`
    sequence_heads: int = 2  # of the encoders `transformer` and `bert`
    num_blocks: int = 1
    history_length: int = HISTORY_LENGTH
    num_user_features: int = len(MODEL_USER_FEATURES)
    dropout: float = 0.1
    user_prior: float = 1.0
    learnt_prior: bool = False  # of δ_u: its mean is learnt, and no 0
    num_terms: int = 0  # of the catalogue; a trained table is folded and has none
    terms_per_item: int = 0
    time_gaps: bool = True  # read by the encoder
    own_dropout: float = 0.0  # how often an item's own embedding is left out
