"""The Open Bandit data: the Thompson policy from the random logs, against what it earned on its own."""

from __future__ import annotations

import numpy as np
import pytest

from outcomes.open_bandit import compare
from tests.reference_data import reference_file

# What obp 0.4.1 answers: `python -m outcomes.open_bandit LOGS --obp-python PYTHON`, 10,000 random rounds a campaign.
OBP = {
    "all": {"IPS": 0.005035, "SNIPS": 0.005253, "DM": 0.004139, "DR": 0.005084},
    "men": {"IPS": 0.005656, "SNIPS": 0.005740, "DM": 0.005095, "DR": 0.005679},
    "women": {"IPS": 0.005806, "SNIPS": 0.005833, "DM": 0.005071, "DR": 0.005847},
}


def test_the_thompson_policy_is_estimated_from_random_logs_as_obp_does_and_as_it_earned() -> None:
    for result in compare(reference_file("obp_zozo/logs.parquet"), None):
        for name, value in OBP[result["campaign"]].items():
            assert result["estimates"][name]["value"] == pytest.approx(value, abs=1e-6), name
        for name in ("IPS", "SNIPS", "DR"):
            estimate = result["estimates"][name]
            error = np.hypot(estimate["standard_error"], result["on_policy_standard_error"])
            assert abs(estimate["value"] - result["on_policy"]) < 2 * error
