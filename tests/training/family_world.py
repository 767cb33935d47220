"""Small lives and a recommender of random weights, without TensorFlow: tests run it on other backends too."""

from __future__ import annotations

import sys

import keras
import numpy as np

from feature_repo.errors import LongtailError
from training.examples.lessons import AnyExamples, make_examples
from training.examples.preparation import Preparation, prepare
from training.examples.sequences import PackedRows, SequenceExamples
from training.fitting.devices import divisible, use
from training.fitting.untrained import DenseAdam, new_recommender
from training.log.engagements import Engagements, from_rows
from training.model import Recommender
from training.settings import TrainingSettings

FEATURES = 8
DAY_S = 86_400.0
SEQUENCE = {
    "encoder": "transformer",
    "embedding_size": 16,
    "num_heads": 2,
    "num_blocks": 1,
    "dropout": 0.0,
    "batch_rows": 4,
}


def lives(*lengths: int, items: int = 9) -> Engagements:
    """Users with so many events each, a day apart, of items that no user meets twice in a row."""
    rng = np.random.default_rng(0)
    rows = []
    for user, length in enumerate(lengths):
        item = 0
        for step in range(length):
            item = (item + int(rng.integers(1, items))) % items
            rows.append((f"user-{user}", f"item-{item}", ("view", "buy")[step % 2], 1e9 + DAY_S * step * (user + 1)))
    return from_rows(rows)


def features_of(user: np.ndarray, as_of_us: np.ndarray) -> np.ndarray:
    """Something that differs by user and moment, and is missing now and then."""
    known = np.stack([np.sin(as_of_us / 1e13 * (k + 1) + user) for k in range(FEATURES)], axis=1).astype(np.float32)
    known[user % 3 == 0, 0] = np.nan
    return known


def world(log: Engagements, **settings: object) -> tuple[Preparation, AnyExamples, Recommender]:
    chosen = TrainingSettings.model_validate({**SEQUENCE, **settings})
    prepared = prepare(log, int(log.time_us.max()) + 1)
    examples = make_examples(prepared, features_of, chosen)
    recommender = new_recommender(prepared, examples, chosen, epochs=1)
    rng = np.random.default_rng(1)
    for variable in recommender.trainable_variables:  # nothing may be hidden by a weight that starts at 0
        variable.assign(rng.normal(0.0, 0.2, variable.shape))
    return prepared, examples, recommender


def answers() -> dict[str, np.ndarray]:
    """What the transformer scores with random weights, and its losses over a few steps."""
    rows, recommender = packed_world()
    batch, _ = rows.batch(np.arange(len(rows)), np.random.default_rng(0))
    scores = {head: np.asarray(logits) for head, logits in recommender.predict_on_batch(batch).items()}
    return {"rank": scores["rank"], "retrieve": scores["retrieve"], "losses": losses(rows, recommender)}


def packed_world(devices: int = 1) -> tuple[PackedRows, Recommender]:
    _, examples, recommender = world(lives(6, 1, 14, 51, 3), devices=devices)
    assert isinstance(examples, SequenceExamples)
    return examples.pack(np.random.default_rng(0)), recommender


def losses(rows: PackedRows, recommender: Recommender) -> np.ndarray:
    batch, labels = divisible(*rows.batch(np.arange(len(rows)), np.random.default_rng(0)))
    recommender.compile(DenseAdam(1e-3), jit_compile=keras.backend.backend() == "jax")
    return np.array([float(recommender.train_on_batch(batch, labels)) for _ in range(4)])


def refusal(devices: int) -> str:
    """What is said of so many devices; empty when they are there."""
    try:
        use(devices)
    except LongtailError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    several = int(sys.argv[2])
    found = answers()
    shared = losses(*packed_world(several)) if several > 1 else found["losses"]
    np.savez(sys.argv[1], rank=found["rank"], retrieve=found["retrieve"], losses=found["losses"], shared=shared)
    sys.stdout.write(refusal(several + 1))
