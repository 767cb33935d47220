"""The kept model names users in one place, where `features erase` finds them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from feature_repo.layout import StateDir
from feature_repo.privacy.erasure import erase_user
from feature_repo.settings import FeatureSettings
from tests.training.conftest import Trained
from training import artifact
from training.model import build, example_inputs
from training.network.shape import ModelShape
from training.workflow import MODEL_FOLDER

GONE = "user-3"


def naming(directory: Path, user_id: str) -> list[str]:
    """Files that hold the id; Parquet and numpy's archives are unpacked."""
    found = []
    for file in (file for file in directory.rglob("*") if file.is_file()):
        if file.suffix == ".parquet":
            text = str(pq.read_table(file).to_pylist())
        elif file.suffix == ".npz":
            with np.load(file) as arrays:
                text = str([arrays[name].tolist() for name in arrays.files if arrays[name].dtype.kind in "UO"])
        else:
            text = file.read_bytes().decode(errors="replace")
        if f"'{user_id}'" in text or f'"{user_id}"' in text:
            found.append(str(file.relative_to(directory)))
    return found


@pytest.fixture
def kept(tmp_path: Path, trained: Trained) -> Path:
    """A trained model in a state directory, one user of which was erased."""
    state = StateDir(tmp_path)
    folder = state.training / MODEL_FOLDER
    artifact.save(trained.model, folder)
    assert naming(tmp_path, GONE) == [str(folder.relative_to(tmp_path) / artifact.USERS)]
    erase_user(state, FeatureSettings(), GONE, now=datetime(2026, 5, 1, tzinfo=UTC))
    return folder


def test_an_erased_user_is_named_nowhere_and_has_no_weights_to_publish(kept: Path, trained: Trained) -> None:
    assert naming(kept.parent.parent, GONE) == []
    users = artifact.load_user_weights(kept)
    assert GONE not in users.user_ids
    assert len(users.user_ids) == len(trained.model.user_ids) - 1


def test_a_model_without_the_erased_user_is_the_same_for_the_others(kept: Path, trained: Trained) -> None:
    loaded, row = artifact.load(kept), list(trained.model.user_ids).index(GONE)
    others = np.arange(len(trained.model.user_ids)) != row
    np.testing.assert_array_equal(loaded.user_weights().weights[others], trained.model.user_weights().weights[others])
    np.testing.assert_array_equal(loaded.user_ids[others], trained.model.user_ids[others])
    assert not loaded.user_weights().weights[row].any()
    assert loaded.user_ids[row] == ""


def test_what_was_learnt_for_nobody_becomes_shared_and_no_score_changes() -> None:
    """Serving gives a user without weights δ = 0."""
    subject = build(ModelShape(num_users=3, num_items=5, embedding_size=8, num_heads=2))
    rng = np.random.default_rng(0)
    for variable in (subject.user_weights.embeddings, subject.shared_weights, subject.items.embeddings):
        variable.assign(rng.normal(size=variable.shape).astype(np.float32))
    never_asked = np.array(subject.user_weights.embeddings)
    never_asked[3] = 0.0
    subject.user_weights.embeddings.assign(never_asked)
    inputs = example_inputs(subject.model_shape, batch=4, candidates=5) | {"user": np.arange(4, dtype=np.int32)}
    inputs["candidate_items"] = np.tile(np.arange(2, 7, dtype=np.int32), (4, 1))
    before = np.asarray(subject(inputs)["rank"])
    artifact.settle_nobody(subject)
    after = np.asarray(subject(inputs)["rank"])
    np.testing.assert_allclose(after[:3], before[:3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after[3], before[0], rtol=1e-4, atol=1e-5)
    assert not np.asarray(subject.user_weights.embeddings)[[0, 3]].any()
