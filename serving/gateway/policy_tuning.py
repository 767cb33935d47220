"""How much novelty a policy can afford: weights chosen on one half of the users, judged on the other. Pure.

The value is the gateway's, relevance^w_r × novelty^(w_n × tail percentile), without what an evaluation does not know:
exposures, sources, exploration. For each objective the largest novelty weight is taken that costs the users of its
states no more than a given share of the NDCG@10 of pure relevance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.lifecycle import Lifecycle
from serving.gateway.domain import Floats, Objective
from serving.gateway.policy import SMALLEST_TERM
from serving.gateway.policy_document import Policy

SHOWN: Final = 10
WEIGHTS: Final = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.3, 1.6, 2.0)
TAIL_FROM: Final = 0.2  # of the tail percentile: all but the most active fifth
LEAST_USERS: Final = 50  # of an objective's states: below, its weight stays
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Candidates of n users, ordered by user: [rows], and what is known of each user: [users]."""

    user: Integers
    score: Floats
    bits: Floats
    novelty: Floats  # bits, as a share of the most
    item: Integers
    is_target: Bools
    states: npt.NDArray[np.object_]
    tail: Floats
    targets: Integers

    def of(self, users: Bools) -> Lists:
        """Of these users alone."""
        rows = users[self.user]
        place = np.cumsum(users) - 1
        return Lists(
            user=place[self.user[rows]],
            score=self.score[rows],
            bits=self.bits[rows],
            novelty=self.novelty[rows],
            item=self.item[rows],
            is_target=self.is_target[rows],
            states=self.states[users],
            tail=self.tail[users],
            targets=self.targets[users],
        )


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a weighting shows: NDCG@10 by user [users], novelty bits by user [users], and each user's items."""

    ndcg: Floats
    bits: Floats
    user: Integers  # [shown]
    item: Integers  # [shown]

    def summary(self, users: Bools) -> dict[str, float]:
        items = np.unique(self.item[users[self.user]])
        return {
            "ndcg": float(self.ndcg[users].mean()),
            "novelty_bits": float(self.bits[users].mean()),
            "distinct_items": len(items),
        }


def read(table: pa.Table) -> tuple[Lists, Bools]:
    """The candidates of a file, and who of its users is in the half that chooses."""
    table = table.sort_by([("user_id", "ascending")])
    names, user = np.unique(table["user_id"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    _, first = np.unique(user, return_index=True)
    bits = table["novelty_bits"].to_numpy()
    lists = Lists(
        user=user,
        score=table["score"].to_numpy(),
        bits=bits,
        novelty=bits / max(float(bits.max()), SMALLEST_TERM),
        item=np.unique(table["item_id"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)[1],
        is_target=table["is_target"].to_numpy(zero_copy_only=False),
        states=table["state"].to_numpy(zero_copy_only=False)[first],
        tail=table["tail_percentile"].to_numpy()[first],
        targets=table["targets"].to_numpy()[first],
    )
    return lists, np.array([hashlib.blake2b(name.encode(), digest_size=1).digest()[0] % 2 == 0 for name in names])


def show(lists: Lists, weights: Floats, *, relevance: float = 1.0) -> Shown:
    """`weights` [users]: of novelty, before the user's tail percentile scales it."""
    exponent = (weights * lists.tail)[lists.user]
    value = np.maximum(lists.score, SMALLEST_TERM) ** relevance * np.maximum(lists.novelty, SMALLEST_TERM) ** exponent
    order = np.lexsort((lists.item, -value, lists.user))
    user = lists.user[order]
    place = np.arange(len(user)) - np.searchsorted(user, user)
    top = order[place < SHOWN]
    rank, owner = place[place < SHOWN], user[place < SHOWN]
    users = len(lists.states)
    gain = np.bincount(owner, weights=lists.is_target[top] / np.log2(rank + 2), minlength=users)
    ideal = np.cumsum(1 / np.log2(np.arange(SHOWN) + 2))
    best = ideal[np.clip(lists.targets, 1, SHOWN) - 1]
    shown = np.maximum(np.bincount(owner, minlength=users), 1)
    return Shown(
        ndcg=gain / best,
        bits=np.bincount(owner, weights=lists.bits[top], minlength=users) / shown,
        user=owner,
        item=lists.item[top],
    )


def novelty_of(policy: Policy, states: npt.NDArray[np.object_]) -> Floats:
    """The policy's novelty weight of each user, by state."""
    known = {str(state): policy.objective(Objective.AUTO, state).novelty for state in Lifecycle}
    return np.array([known[state] for state in states.tolist()], float)


def tune(lists: Lists, policy: Policy, most_loss: Mapping[str, float]) -> dict[str, float]:
    """The novelty weight of each objective; one whose states have too few users keeps the policy's."""
    chosen = {}
    for objective, loss in most_loss.items():
        users = _with_objective(lists, policy, objective)
        chosen[objective] = float(getattr(policy.objectives, objective).novelty)
        if int(users.sum()) < LEAST_USERS:
            continue
        theirs = lists.of(users)
        pure = show(theirs, np.zeros(len(theirs.states))).ndcg.mean()
        allowed = [w for w in WEIGHTS if show(theirs, np.full(len(theirs.states), w)).ndcg.mean() >= pure * (1 - loss)]
        chosen[objective] = max(allowed)
    return chosen


def with_novelty(policy: Policy, weights: Mapping[str, float]) -> Policy:
    """The policy with other novelty weights, by objective."""
    sections = {
        name: getattr(policy.objectives, name).model_copy(update={"novelty": weight})
        for name, weight in weights.items()
    }
    return policy.model_copy(update={"objectives": policy.objectives.model_copy(update=sections)})


def sections(policy: Policy) -> str:
    """Its objectives, as a policy.toml has them."""
    lines = []
    for name, section in policy.objectives:
        lines += [f"[objectives.{name}]", *(f"{term} = {weight}" for term, weight in section), ""]
    return "\n".join(lines)


def judge(lists: Lists, policies: Mapping[str, Policy]) -> dict[str, Any]:
    """By group of users: what pure relevance shows, and what each policy does."""
    weights = {"relevance": np.zeros(len(lists.states))}
    weights |= {name: novelty_of(policy, lists.states) for name, policy in policies.items()}
    shown = {name: show(lists, of_user) for name, of_user in weights.items()}
    groups = {
        "all": np.ones(len(lists.states), bool),
        "tail": lists.tail >= TAIL_FROM,
        **{f"state: {state}": lists.states == state for state in sorted(set(lists.states.tolist()))},
    }
    return {
        name: {"users": int(users.sum())} | {policy: one.summary(users) for policy, one in shown.items()}
        for name, users in groups.items()
        if users.any()
    }


def _with_objective(lists: Lists, policy: Policy, objective: str) -> Bools:
    states = [str(state) for state in Lifecycle if policy.state(state).objective == objective]
    return np.isin(lists.states, states)
