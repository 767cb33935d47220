"""Who is compared with whom: those answered with those held out, and the arms of each experiment with its first arm."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from outcomes.decisions import Decisions
from outcomes.errors import OutcomeError

RANKINGS: Final = "rankings"  # all that no campaign asked for

ArmWeights = Mapping[tuple[str, str], Mapping[str, float]]
"""Arms with their weights, in the policy's order, by (policy version without its name, experiment)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """`decisions` as in `outcomes.decisions`, with is_treated and propensity, the probability of being treated."""

    name: str
    decisions: pd.DataFrame
    treated: str = "answered"
    held_out: str = "held out"
    other_versions: int = 0  # decisions left out, since the experiment was another one then


def held_out_parts(log: Decisions) -> Iterator[Part]:
    """All rankings, and each campaign. A suppressed decision is in neither arm: the rules come before the draw."""
    for key, part in log.decisions.groupby("campaign_id", sort=True):
        campaign = str(key)
        decided = part.assign(is_treated=part["decision"] == "show", propensity=part["contact_propensity"])
        yield Part(name=f"campaign {campaign}" if campaign else RANKINGS, decisions=decided)


def experiment_parts(log: Decisions, weights: ArmWeights) -> Iterator[Part]:
    """Each arm against the first, among users who were answered; of a changed experiment the last version alone."""
    answered = log.decisions[log.decisions["decision"] == "show"]
    joined = answered.merge(log.assignments, on="decision_id").sort_values("at_unix_s", kind="stable")
    for experiment, part in joined.groupby("experiment", sort=True):
        last = part[part["version"] == part["version"].iloc[-1]]
        policy = str(last["policy_version"].iloc[-1]).rpartition("@")[2]
        arms = weights.get((policy, str(experiment)))
        if arms is None:  # the policy is not kept: with what probability nobody knows
            continue
        control, *others = arms
        for arm in others:
            pair = last[last["arm"].isin([control, arm])]
            share = arms[arm] / (arms[arm] + arms[control])
            yield Part(
                name=f"experiment {experiment}: {arm} against {control}",
                decisions=pair.assign(is_treated=pair["arm"] == arm, propensity=share),
                treated=arm,
                held_out=control,
                other_versions=len(part) - len(last),
            )


def read_weights(policies: Path) -> dict[tuple[str, str], dict[str, float]]:
    """From the policies that decided, as the gateway keeps them. Raises OutcomeError for a file that is none."""
    found = {}
    for path in sorted(policies.glob("*.json")):
        try:
            for layer in json.loads(path.read_text())["layers"]:
                for one in layer["experiments"]:
                    arms = {arm["name"]: float(arm["weight"]) for arm in one["arms"]}
                    found[path.stem, str(one["name"])] = arms
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutcomeError(f"{path} is no policy that the gateway kept: {error!r}; move it away") from error
    return found
