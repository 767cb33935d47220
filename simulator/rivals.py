"""Who decides whom to contact with what: longtail, and what is usually done instead. All of them ask the real gateway.

The rivals' policy has no holdout and no exploration, but the same caps, spacing, quiet hours and consent: whom the
gateway answers SUPPRESSED is not contacted by anyone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from longtail.activation.v1 import activation_pb2 as pb
from simulator.stage import SimulationError, Stage
from simulator.world import item_id, number_of

CHANNEL: Final = "push"
SLATE: Final = 5
POPULAR: Final = 60  # items of which the first that a user does not know are sent
SEGMENT: Final = (pb.LIFECYCLE_CASUAL, pb.LIFECYCLE_AT_RISK, pb.LIFECYCLE_DORMANT)
STATES: Final = ("casual", "at_risk", "dormant")
SELECT_S: Final = 600.0
EXPLAIN_S: Final = 10.0

RELEVANCE_ONLY: Final = """
name = "relevance-only"
[holdout]
rate = 0.0
""" + "".join(
    f"[objectives.{name}]\nrelevance = 1.0\nnovelty = 0.0\nfatigue = 0.0\ndiversity = 0.0\n"
    for name in ("activate", "retain", "explore")
)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What is asked for in one evening."""

    number: int
    contacts: int
    holdout: float
    seed: int

    @property
    def campaign(self) -> str:
        return f"round-{self.number}"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """One user of a round. `is_contacted` is False for one held out."""

    user: int
    items: tuple[int, ...]
    decision_id: str
    state: int
    is_contacted: bool = True


@dataclass(frozen=True, kw_only=True)
class Round:
    """What was decided in one evening, over `decisions` answers of the gateway."""

    chosen: tuple[Chosen, ...]
    suppressed: dict[str, int]
    decisions: int


def longtail_chooses(stage: Stage, turn: Turn) -> Round:
    """SelectUsers: by expected incremental return. Those held out take the place of contacts."""
    request = pb.SelectUsersRequest(
        campaign_id=turn.campaign,
        segment=pb.Segment(states=SEGMENT),
        max_contacts=turn.contacts,
        channels=[CHANNEL],
        limit=SLATE,
        holdout_rate=turn.holdout,
    )
    chosen, answers = [], []
    for one in stage.activation.SelectUsers(request, timeout=SELECT_S):
        answers.append(one.answer)
        if one.answer.decision != pb.DECISION_SUPPRESSED:
            chosen.append(_chosen(number_of(one.user_id), _with_items(stage, one.answer)))
    return _round(chosen, answers)


def relevance_chooses(stage: Stage, turn: Turn) -> Round:
    """Those whose best item scores highest get their best items: what a recommender's push does."""
    answers = list(_rank_all(stage, sources=[pb.CANDIDATE_SOURCE_RETRIEVAL]))
    asked = sorted((one for one in answers if one[1].items), key=lambda one: (-one[1].items[0].score, one[0]))
    return _round([_chosen(*one) for one in asked[: turn.contacts]], [answer for _, answer in answers])


def popularity_chooses(stage: Stage, turn: Turn) -> Round:
    """Anyone gets what most like and the user does not have: a newsletter."""
    popular, known = _popular(stage), _known(stage)
    answers = list(_rank_all(stage, candidate_item_ids=[item_id(item) for item in popular]))
    allowed = [one for one in answers if one[1].decision == pb.DECISION_SHOW]
    order = np.random.default_rng([turn.seed, turn.number]).permutation(len(allowed))[: turn.contacts]
    chosen = []
    for user, answer in (allowed[place] for place in order):
        items = tuple(item for item in popular if item not in known.get(user, ()))[:SLATE]
        chosen.append(replace(_chosen(user, answer), items=items))
    return _round(chosen, [answer for _, answer in answers])


def _with_items(stage: Stage, answer: pb.RankItemsResponse) -> pb.RankItemsResponse:
    """Of one held out, what would have been sent: the decision log knows."""
    if answer.decision == pb.DECISION_SHOW:
        return answer
    request = pb.ExplainDecisionRequest(decision_id=answer.decision_id)
    would_be: pb.RankItemsResponse = stage.activation.ExplainDecision(request, timeout=EXPLAIN_S).answer
    return would_be


def _rank_all(stage: Stage, **fields: Any) -> Iterator[tuple[int, pb.RankItemsResponse]]:
    """Everyone of the segment, asked as for a contact; `fields` are more of the request's."""
    table = pq.read_table(stage.state.features / "user_activity.parquet", columns=["user_id", "state"])
    users = sorted(row["user_id"] for row in table.to_pylist() if row["state"] in STATES)
    requests = (
        pb.RankItemsRequest(user_id=user, limit=SLATE, channel=CHANNEL, surface=CHANNEL, **fields) for user in users
    )
    for user, answer in zip(users, stage.activation.BatchRankItems(requests, timeout=SELECT_S), strict=True):
        if answer.HasField("error"):
            raise SimulationError(f"user {user} could not be ranked: {answer.error.message}")
        yield number_of(user), answer


def _popular(stage: Stage) -> list[int]:
    table = pq.read_table(stage.state.features / "item_stats.parquet", columns=["item_id", "engagements"])
    ordered = table.sort_by([("engagements", "descending"), ("item_id", "ascending")])
    return [number_of(name) for name in ordered["item_id"].to_pylist()[:POPULAR]]


def _known(stage: Stage) -> dict[int, set[int]]:
    table = pq.read_table(stage.state.features / "user_behavior.parquet", columns=["user_id", "history_item_ids"])
    return {number_of(row["user_id"]): set(map(number_of, row["history_item_ids"])) for row in table.to_pylist()}


def _chosen(user: int, answer: pb.RankItemsResponse) -> Chosen:
    return Chosen(
        user=user,
        items=tuple(number_of(item.item_id) for item in answer.items),
        decision_id=answer.decision_id,
        state=answer.user_state.state,
        is_contacted=answer.decision == pb.DECISION_SHOW,
    )


def _round(chosen: Sequence[Chosen], answers: Sequence[pb.RankItemsResponse]) -> Round:
    suppressed: dict[str, int] = {}
    for answer in answers:
        if answer.decision == pb.DECISION_SUPPRESSED:
            suppressed[answer.decision_reason] = suppressed.get(answer.decision_reason, 0) + 1
    return Round(chosen=tuple(chosen), suppressed=suppressed, decisions=len(answers))
