from __future__ import annotations

import subprocess
import sys

import numpy as np

from feature_repo import contract
from feature_repo.transforms import USER_FEATURE_COLUMNS, history_arrays, user_features


def test_features_come_in_the_contracts_order() -> None:
    columns = {name: np.array([0.0, 0.0]) for name in USER_FEATURE_COLUMNS}
    columns |= {"events": np.array([0.0, np.e - 1]), "last_seen_unix_s": np.array([0.0, 86_400.0])}
    features = user_features(columns, now_unix_s=np.array([86_400.0, 3 * 86_400.0]))
    assert features.shape == (2, len(contract.MODEL_USER_FEATURES))
    assert features.dtype == np.float32
    by_name = dict(zip(contract.MODEL_USER_FEATURES, features.T.tolist(), strict=True))
    assert by_name["log_events"] == [0.0, 1.0]
    assert by_name["days_since_last_seen"] == [1.0, 2.0]


def test_a_user_without_a_row_is_all_missing() -> None:
    columns = {name: np.array([np.nan]) for name in USER_FEATURE_COLUMNS}
    assert np.isnan(user_features(columns, now_unix_s=np.array([0.0]))).all()


def test_an_event_in_the_future_has_age_zero() -> None:
    columns = {name: np.array([100.0]) for name in USER_FEATURE_COLUMNS}
    assert user_features(columns, now_unix_s=np.array([50.0]))[0, -2:].tolist() == [0.0, 0.0]
    assert history_arrays([["i"]], [["view"]], [[100]], now_unix_s=[50.0]).age_s[0, 0] == 0.0


def test_histories_are_padded_and_cut_to_the_length() -> None:
    arrays = history_arrays(
        [[], ["b", "a"], ["d", "c", "b", "a"]],
        [[], ["view", "click"], ["view"] * 4],
        [[], [90, 80], [70, 60, 50, 40]],
        now_unix_s=[100.0, 100.0, 100.0],
        length=3,
    )
    assert arrays.item_ids.tolist() == [["", "", ""], ["b", "a", ""], ["d", "c", "b"]]
    assert arrays.event_types.tolist() == [["", "", ""], ["view", "click", ""], ["view", "view", "view"]]
    assert arrays.age_s.tolist() == [[0, 0, 0], [10, 20, 0], [30, 40, 50]]


def test_what_the_gateway_imports_is_light() -> None:
    program = """
import sys
import feature_repo.contract, feature_repo.settings, feature_repo.events, feature_repo.log.event_log
import feature_repo.lifecycle, feature_repo.transforms, feature_repo.stream.updates
print([name for name in ("feast", "ibis", "pandas", "pyarrow", "duckdb", "scipy", "tensorflow") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
