"""How much novelty a policy can afford: weights chosen on one half of the users, judged on the other. Pure.

The value is the gateway's, relevance^w_r × novelty^(w_n × tail percentile), without what an evaluation does not know:
exposures, sources, exploration. For each objective that weight, and that share of the places in which it counts, are
taken which raise novelty × distinct items most, of those that cost the users of its states no more than a given share
of the NDCG@10 of pure relevance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.lifecycle import Lifecycle
from serving.gateway.domain import Floats, Objective
from serving.gateway.policy.document import Policy
from serving.gateway.policy.order import SMALLEST_TERM

SHOWN: Final = 10
WEIGHTS: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 1.0)
TAIL_FROM: Final = 0.2  # of the tail percentile: all but the most active fifth
LEAST_USERS: Final = 50  # of an objective's states: below, its weight stays
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


class Novelty(NamedTuple):
    """What an objective says of it; or, as arrays [users], each user's."""

    weight: Any
    share: Any


NONE: Final = Novelty(0.0, 1.0)


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


def show(lists: Lists, novelty: Novelty) -> Shown:
    """`novelty` is everyone's, or [users]: its weight before the user's tail percentile scales it."""
    users = len(lists.states)
    exponent = np.broadcast_to(novelty.weight * lists.tail, users)[lists.user]
    plain = np.maximum(lists.score, SMALLEST_TERM)
    value = plain * np.maximum(lists.novelty, SMALLEST_TERM) ** exponent
    count = np.minimum(np.bincount(lists.user, minlength=users), SHOWN)
    first = count - np.floor(novelty.share * count + 1e-9).astype(np.int64)  # [users], as the gateway has it
    by_plain = np.lexsort((lists.item, -plain, lists.user))
    is_first = np.zeros(len(lists.user), bool)
    is_first[by_plain] = _place(lists.user[by_plain]) < first[lists.user[by_plain]]
    order = np.lexsort((lists.item, -np.where(is_first, plain, value), ~is_first, lists.user))
    user = lists.user[order]
    place = _place(user)
    top = order[place < SHOWN]
    rank, owner = place[place < SHOWN], user[place < SHOWN]
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


def _place(user: Integers) -> Integers:
    """Of each row within those of its user, which follow each other: [rows]."""
    return np.asarray(np.arange(len(user)) - np.searchsorted(user, user))


def of_objective(policy: Policy, objective: str) -> Novelty:
    section = getattr(policy.objectives, objective)
    return Novelty(section.novelty, section.novelty_share)


def novelty_of(policy: Policy, states: npt.NDArray[np.object_]) -> Novelty:
    """What the policy says for each user, by state: [users]."""
    known = {str(state): policy.objective(Objective.AUTO, state) for state in Lifecycle}
    found = [known[state] for state in states.tolist()]
    return Novelty(np.array([one.novelty for one in found], float), np.array([one.novelty_share for one in found]))


def tune(lists: Lists, policy: Policy, most_loss: Mapping[str, float]) -> dict[str, Novelty]:
    """What each objective can afford; one whose states have too few users keeps what the policy says."""
    chosen = {}
    for objective, loss in most_loss.items():
        users = _with_objective(lists, policy, objective)
        chosen[objective] = of_objective(policy, objective)
        if int(users.sum()) >= LEAST_USERS:
            chosen[objective] = _most(lists.of(users), loss)
    return chosen


def _most(lists: Lists, loss: float) -> Novelty:
    everyone = np.ones(len(lists.states), bool)
    pure = show(lists, NONE).summary(everyone)
    best, reach = NONE, pure["novelty_bits"] * pure["distinct_items"]
    for novelty in (Novelty(*one) for one in product(WEIGHTS, SHARES)):
        found = show(lists, novelty).summary(everyone)
        rise = found["novelty_bits"] * found["distinct_items"]
        if found["ndcg"] >= pure["ndcg"] * (1 - loss) and rise > reach:
            best, reach = novelty, rise
    return best


def with_novelty(policy: Policy, novelty: Mapping[str, Novelty]) -> Policy:
    """The policy with other novelty, by objective."""
    sections = {
        name: getattr(policy.objectives, name).model_copy(update={"novelty": one.weight, "novelty_share": one.share})
        for name, one in novelty.items()
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
    novelty = {"relevance": NONE} | {name: novelty_of(policy, lists.states) for name, policy in policies.items()}
    shown = {name: show(lists, of_user) for name, of_user in novelty.items()}
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
