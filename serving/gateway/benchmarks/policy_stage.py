"""What the policy costs a request: from scored candidates to the items of the answer, exploration included.

python -m serving.gateway.benchmarks.policy_stage [--candidates 200] [--limit 10] [--rounds 9] [--policy policy.toml]

Beside it, in the same rounds, what any order costs: sorting by the model's score and naming the first items.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from feature_repo.lifecycle import Lifecycle
from serving.gateway.domain import Candidates, ItemId, ModelVersion, Query, RankedItem, Scored, Source, User, UserId
from serving.gateway.policy.book import PolicyBook
from serving.gateway.policy.document import Policy
from serving.gateway.policy.slate import fill

CALLS: Final = 400
CATEGORIES: Final = 20
NOW_S: Final = 1_780_000_000.0


def main() -> None:
    """Prints a line for each lifecycle state, and for lists that are spread over categories."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--policy", type=Path, help="the shipped one by default")
    given = parser.parse_args()
    policy, scored = PolicyBook(given.policy).policy, scored_candidates(given.candidates)
    query = Query(user_id=UserId("u1"), limit=given.limit)
    sorted_us, rows = [], []
    for name, one, state in [
        *((str(s), policy, s) for s in Lifecycle),
        ("casual, spread", spread(policy), Lifecycle.CASUAL),
    ]:
        pairs = []
        for number in range(given.rounds):
            ask = partial(fill, scored, query=query, user=user(state), policy=one)
            pairs.append(
                (microseconds(partial(seeded, ask, number)), microseconds(partial(plain, scored, given.limit)))
            )
        ours_us, plain_us = (statistics.median(each) for each in zip(*pairs, strict=True))
        sorted_us.append(plain_us)
        rows.append((name, ours_us))
    plain_us = statistics.median(sorted_us)
    say(f"{given.candidates} candidates, {given.limit} shown, medians of {given.rounds} rounds of {CALLS} calls")
    say(f"  sorted by score: {plain_us:.0f} µs")
    for name, ours_us in rows:
        say(f"  {name}: {ours_us:.0f} µs, {ours_us / plain_us:.1f} ×")


def microseconds(call: Callable[[int], object]) -> float:
    started = time.perf_counter()
    for number in range(CALLS):
        call(number)
    return (time.perf_counter() - started) / CALLS * 1e6


def seeded(ask: Callable[..., object], number: int, call: int) -> None:
    """Another draw each time."""
    ask(seed=f"{number} {call}")


def plain(scored: Scored, limit: int, _: int) -> None:
    by_score(scored, limit)


def by_score(scored: Scored, limit: int) -> tuple[RankedItem, ...]:
    """The least that gives an answer."""
    best = np.argsort(-scored.scores, kind="stable")[:limit]
    return tuple(
        RankedItem(
            item_id=scored.candidates.item_ids[place],
            rank=rank,
            score=float(scored.scores[place]),
            value=float(scored.scores[place]),
            propensity=1.0,
            source=scored.candidates.sources[place],
            is_exploration=False,
            terms=(),
        )
        for rank, place in enumerate(best, start=1)
    )


def scored_candidates(count: int) -> Scored:
    """Every third was shown before; rates of all are known."""
    random = np.random.default_rng(0)
    scores = random.random(count, np.float32)
    return Scored(
        candidates=Candidates.of(Source.CALLER, tuple(ItemId(f"item-{number}") for number in range(count))),
        scores=scores,
        relevance=scores.astype(np.float64),
        novelty=random.random(count),
        exposures=np.where(np.arange(count) % 3 == 0, random.random(count), 0.0),
        categories=random.integers(1, CATEGORIES, count).astype(np.int32),
        category_names={number: f"category-{number}" for number in range(CATEGORIES)},
        rates=random.random(count) / 10,
        trials=random.integers(1, 1_000, count).astype(np.float64),
        model=ModelVersion(name="longtail", version=1),
    )


def user(state: Lifecycle) -> User:
    return User(
        user_id=UserId("u1"),
        state=state,
        days_in_state=10.0,
        p_alive=0.5,
        tail_percentile=0.7,
        last_seen_unix_s=NOW_S,
        history=(),
    )


def spread(policy: Policy) -> Policy:
    """The same with a weight for diversity in every objective."""
    objectives = policy.objectives
    spread = {
        name: getattr(objectives, name).model_copy(update={"diversity": 1.0}) for name in type(objectives).model_fields
    }
    return policy.model_copy(update={"objectives": objectives.model_copy(update=spread)})


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
