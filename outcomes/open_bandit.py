"""Our estimators on the Open Bandit data, beside the `obp` library where an environment of its own has it.

    python -m outcomes.open_bandit LOGS.parquet [--obp-python PYTHON]

The Thompson policy is estimated from the uniformly random logs of each campaign and compared with what it earned on
its own. It changed over time; its distribution at a place is taken as how often it showed each item there. obp does
not install beside this project's locked libraries, and asks for torch, which none of the functions used here runs:
where torch is absent it gets an empty stand-in, in that process only.
"""

# ruff: noqa: T201  a benchmark prints
from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from outcomes.mapped_log import read_rounds
from outcomes.off_policy import evaluate
from outcomes.reward_model import cross_fitted, fold_of

COLUMNS: Final = {"item": "item_id", "place": "position", "reward": "click", "propensity": "propensity_score"}

OBP_PROGRAM: Final = """
import json, sys
from unittest.mock import MagicMock
import numpy as np
try:
    import torch
except ImportError:
    class Tensor: ...
    class Module: ...
    torch = MagicMock(Tensor=Tensor)
    torch.nn.Module = torch.utils.data.Dataset = Module
    sys.modules.update({"torch": torch, "torch.nn": torch.nn, "torch.optim": torch.optim})
for name in ("seaborn", "mypy_extensions", "pyieoe"):
    try:
        __import__(name)
    except ImportError:
        sys.modules[name] = MagicMock()
from obp.ope.estimators import (DirectMethod, DoublyRobust, InverseProbabilityWeighting,
                                SelfNormalizedInverseProbabilityWeighting)
given = np.load(sys.argv[1])
rounds = {name: given[name] for name in ("reward", "action", "pscore", "position", "action_dist")}
model = given["estimated_rewards_by_reg_model"]
print(json.dumps({
    "IPS": float(InverseProbabilityWeighting().estimate_policy_value(**rounds)),
    "SNIPS": float(SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**rounds)),
    "DM": float(DirectMethod().estimate_policy_value(estimated_rewards_by_reg_model=model, **rounds)),
    "DR": float(DoublyRobust().estimate_policy_value(estimated_rewards_by_reg_model=model, **rounds)),
}))
"""


def compare(logs: Path, obp_python: str | None) -> list[dict[str, Any]]:
    """One result a campaign."""
    frame = pd.read_parquet(logs, columns=[*COLUMNS.values(), "policy", "campaign"])
    return [_compare(name, rows, obp_python) for name, rows in frame.groupby("campaign")]


def _compare(campaign: Any, rows: pd.DataFrame, obp_python: str | None) -> dict[str, Any]:
    random, thompson = rows[rows["policy"] == "random"], rows[rows["policy"] == "bts"]
    shares = thompson.groupby("position")["item_id"].value_counts(normalize=True)
    target = shares.rename("probability").reset_index().rename(columns={"item_id": "item", "position": "place"})
    with tempfile.TemporaryDirectory() as folder:
        log, policy = Path(folder) / "log.parquet", Path(folder) / "policy.parquet"
        random.to_parquet(log)
        target.to_parquet(policy)
        found = evaluate(read_rounds(str(log), COLUMNS, target=str(policy)))
        reference = None if obp_python is None else _obp(Path(folder), random, target, obp_python)
    clicks = thompson["click"].to_numpy()
    return {
        "campaign": campaign,
        "on_policy": float(clicks.mean()),
        "on_policy_standard_error": float(clicks.std(ddof=1) / np.sqrt(len(clicks))),
        **found.as_json(),
        "obp": reference,
    }


def _obp(folder: Path, random: pd.DataFrame, target: pd.DataFrame, python: str) -> dict[str, float]:
    """The same rounds, policy and reward model as whole matrices, in obp's layout."""
    items, action = np.unique(random["item_id"].astype(str), return_inverse=True)
    place = random["position"].to_numpy() - 1
    policy = np.zeros((3, len(items)))
    names = items.tolist()
    for item, at, share in target[["item", "place", "probability"]].itertuples(index=False):
        policy[at - 1, names.index(str(item))] += share
    cluster = np.arange(len(random))
    reward = random["click"].to_numpy(np.float64)
    rates = cross_fitted(
        reward=reward, action=action, place=place, cluster=cluster, actions=len(items), places=3
    )  # [folds, places, items]
    np.savez(
        folder / "rounds.npz",
        reward=reward,
        action=action,
        pscore=random["propensity_score"].to_numpy(),
        position=place,
        action_dist=np.broadcast_to(policy.T, (len(random), len(items), 3)),
        estimated_rewards_by_reg_model=rates[fold_of(cluster, len(rates))].transpose(0, 2, 1),
    )
    command = [python, "-c", OBP_PROGRAM, str(folder / "rounds.npz")]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode:
        raise SystemExit(f"{python} cannot run obp:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path)
    parser.add_argument("--obp-python", help="a Python that imports obp")
    given = parser.parse_args()
    for result in compare(given.logs, given.obp_python):
        own, error = result["on_policy"], result["on_policy_standard_error"]
        print(f"{result['campaign']}: Thompson on its own {own:.6f} ± {error:.6f}, ", end="")
        print(f"effective sample size {result['effective_sample_size']:.0f} of {result['rounds']}")
        for name, estimate in result["estimates"].items():
            line = f"  {name:5} {estimate['value']:.6f} [{estimate['low']:.6f}, {estimate['high']:.6f}]"
            if result["obp"]:
                line += f"  obp {result['obp'][name]:.6f}, difference {estimate['value'] - result['obp'][name]:+.1e}"
            print(line)


if __name__ == "__main__":
    main()
