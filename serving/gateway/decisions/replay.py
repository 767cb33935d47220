"""A logged decision computed again from what it was made of, and compared: pure but for the policy it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from feature_repo.decisions.lines import CANDIDATE_NUMBERS
from feature_repo.lifecycle import Lifecycle
from serving.gateway.domain import (
    Candidates,
    Experiment,
    ItemId,
    ModelVersion,
    Objective,
    Query,
    RankedItem,
    Scored,
    Source,
    User,
    UserId,
)
from serving.gateway.policy.document import Policy
from serving.gateway.policy.experiments import replayed
from serving.gateway.policy.slate import fill, seed_of

COMPARED = ("item_id", "rank", "score", "value", "propensity", "source", "is_exploration")


@dataclass(frozen=True, kw_only=True)
class Replay:
    """`items` are those of the log's answer with their terms, as computed now."""

    items: tuple[RankedItem, ...]
    differences: tuple[str, ...]

    @property
    def is_identical(self) -> bool:
        return not self.differences


def replay(decision: Mapping[str, Any], policy: Policy) -> Replay:
    """Every number of every item has to be the same to the last bit. `policy` is the base policy that decided."""
    items, _ = arrange_again(decision, policy)
    return Replay(items=items, differences=tuple(_differences(decision["items"], items)))


def arrange_again(decision: Mapping[str, Any], policy: Policy) -> tuple[tuple[RankedItem, ...], Scored]:
    """What this policy makes of the logged candidates, in the arms that the user was in."""
    experiments = tuple(Experiment(**one) for one in decision["experiments"])
    return arrange_under(decision, replayed(policy, experiments), experiments)


def arrange_under(
    decision: Mapping[str, Any], policy: Policy, experiments: tuple[Experiment, ...] = ()
) -> tuple[tuple[RankedItem, ...], Scored]:
    """What a policy makes of the logged candidates; `experiments` only name what else the draws depend on."""
    scored = scored_of(decision)
    seed = seed_of(policy, experiments, decision["unit"], now_unix_s=decision["at_unix_s"])
    query = Query(
        user_id=UserId(decision["user_id"]),
        limit=decision["limit"],
        objective=Objective(decision["objective"]),
        explain=True,
    )
    seed_or_none = seed if decision["explores"] else None
    items, _ = fill(scored, query=query, user=user_of(decision), policy=policy, seed=seed_or_none)
    return items, scored


def scored_of(decision: Mapping[str, Any]) -> Scored:
    numbers = {name: np.array(decision[f"candidate_{name}"], np.float32) for name in CANDIDATE_NUMBERS}
    wide = {name: column.astype(np.float64) for name, column in numbers.items()}
    names = dict.fromkeys(("", *decision["candidate_categories"]))
    codes = {name: code for code, name in enumerate(names)}
    is_prior = decision["model_name"] is None
    return Scored(
        candidates=Candidates(
            tuple(map(ItemId, decision["candidate_item_ids"])), tuple(map(Source, decision["candidate_sources"]))
        ),
        scores=numbers["score"],
        relevance=wide["relevance"] if is_prior else wide["score"],
        novelty=wide["novelty"],
        exposures=wide["exposures"],
        categories=np.array([codes[name] for name in decision["candidate_categories"]], np.int32),
        category_names={code: name for name, code in codes.items()},
        rates=wide["rate"],
        trials=wide["trials"],
        model=None if is_prior else ModelVersion(name=decision["model_name"], version=decision["model_version"]),
    )


def user_of(decision: Mapping[str, Any]) -> User:
    return User(
        user_id=UserId(decision["user_id"]),
        state=Lifecycle(decision["state"]),
        days_in_state=decision["days_in_state"],
        p_alive=decision["p_alive"],
        tail_percentile=decision["tail_percentile"],
        last_seen_unix_s=None,
        history=(),
    )


def explained(decision: Mapping[str, Any], result: Replay) -> tuple[RankedItem, ...]:
    """The answer as logged, each item with the terms that the replay found for it."""
    terms = {item.item_id: item.terms for item in result.items}
    return tuple(
        replace(
            RankedItem(
                **{name: item[name] for name in COMPARED if name != "source"}, source=Source(item["source"]), terms=()
            ),
            terms=terms.get(item["item_id"], ()),
        )
        for item in decision["items"]
    )


def _differences(logged: list[Mapping[str, Any]], items: tuple[RankedItem, ...]) -> list[str]:
    found = []
    if len(logged) != len(items):
        found.append(f"{len(logged)} items were answered, {len(items)} are computed")
    for was, item in zip(logged, items, strict=False):
        for name in COMPARED:
            if was[name] != getattr(item, name):
                found.append(f"rank {was['rank']}: {name} was {was[name]!r}, is {getattr(item, name)!r}")
    return found
